//! The spelling of factory strings: canonical case, and a guess at the valid string behind a refused one.

use super::auto_choice::AUTO;

/// Words in FAISS's spelling, including those of refused families. No two differ only in case.
const WORDS: &[&str] = &[
    AUTO,
    "BFlat",
    "BHNSW",
    "BIVF",
    "Flat",
    "FlatDedup",
    "HNSW",
    "IDMap",
    "IMI",
    "ITQ",
    "IVF",
    "L",
    "LSCQ",
    "LSH",
    "LSHr",
    "LSHrt",
    "LSHt",
    "LSQ",
    "M",
    "MinMax",
    "MinMaxFP",
    "NSG",
    "Ncqint",
    "Nfloat",
    "Nlsq",
    "Nnone",
    "Nqint",
    "Nrq",
    "OPQ",
    "PCA",
    "PCAR",
    "PCAW",
    "PCAWR",
    "PLSQ",
    "PQ",
    "PRQ",
    "Pad",
    "RCQ",
    "RFlat",
    "RQ",
    "RR",
    "RaBitQ",
    "Refine",
    "Residual",
    "SH",
    "SQ",
    "SQbf",
    "SQfp",
    "ZnLattice",
    "direct",
    "fs",
    "fsr",
    "g",
    "k",
    "norm",
    "np",
    "r",
    "rt",
    "signed",
    "t",
    "x",
];
/// Shorter words resemble too many others.
const MIN_GUESSED_LETTERS: usize = 2;

/// A factory string in FAISS's spelling; unknown words stay as they are.
///
/// SQL folds `WITH (factory = HNSW32)` to lower case, and several programs write it in lower case.
pub fn canonical(factory: &str) -> String {
    respelt(factory, |word| WORDS.iter().find(|known| known.eq_ignore_ascii_case(word)).copied())
}

/// A valid string close to a refused one: the first of several guesses that `is_understood` accepts.
pub(crate) fn meant(factory: &str, is_understood: impl Fn(&str) -> bool) -> Option<String> {
    let known = canonical(factory.trim()).replace(' ', "");
    let guessed = respelt(&known, |word| Some(nearest(word).unwrap_or(word)));
    let guesses = [known, guessed];
    let complete = guesses.iter().flat_map(|guess| {
        [
            guess.clone(),
            guess.replace("fsr", "fs"),
            guess.replace("fs_64", "fs"),
            guess.replace("x8fs", "x4fs"),
            guess.replace("SQ16", "SQfp16"),
            guess.replace("Flat,RFlat", "Flat"),
            format!("{guess},Flat"),
            separated(guess),
        ]
    });
    complete.filter(|guess| guess != factory).find(|guess| is_understood(guess))
}

/// Replaces each run of letters by its `spelling`.
fn respelt<'a>(text: &'a str, spelling: impl Fn(&'a str) -> Option<&'a str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (word, after) = rest.split_at(letters);
        result.push_str(if word.is_empty() { word } else { spelling(word).unwrap_or(word) });
        let others = after.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(after.len());
        result.push_str(&after[..others]);
        rest = &after[others..];
    }
    result
}

/// The word that is one letter away (added, left out, other or exchanged with the next), in any case.
fn nearest(word: &str) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let others =
        WORDS.iter().filter(|known| known.len() >= MIN_GUESSED_LETTERS && word.len() >= MIN_GUESSED_LETTERS);
    if WORDS.contains(&word) {
        return None;
    }
    others.copied().find(|known| is_one_step(lower.as_bytes(), known.to_ascii_lowercase().as_bytes()))
}

fn is_one_step(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let same = short.iter().zip(long).take_while(|(x, y)| x == y).count();
    match long.len() - short.len() {
        0 => {
            let swapped = same + 1 < long.len()
                && short[same] == long[same + 1]
                && short[same + 1] == long[same]
                && short[same + 2..] == long[same + 2..];
            swapped || short[(same + 1).min(short.len())..] == long[(same + 1).min(long.len())..]
        }
        1 => short[same..] == long[same + 1..],
        _ => false,
    }
}

/// Inserts a comma before each part that follows a number directly.
fn separated(text: &str) -> String {
    let mut result = text.to_string();
    for part in ["Flat", "RFlat", "SQ", "PQ", "IVF", "HNSW", "RaBitQ"] {
        for digit in '0'..='9' {
            result = result.replace(&format!("{digit}{part}"), &format!("{digit},{part}"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_case_is_read_as_faiss_spells_it() {
        for factory in [
            "auto",
            "Flat",
            "HNSW32",
            "HNSW32,SQ8",
            "HNSW32_PQ16",
            "IVF1024,Flat",
            "IVF4k_HNSW,PQ48x4fsr_32,RFlat",
            "IVF1M,SQ8",
            "PQ96x4fs",
            "OPQ96,IVF512,PQ96",
            "OPQ16_64,IVF64,PQ16np",
            "IVF100,SQfp16",
            "SQbf16",
            "SQ8_direct_signed",
            "PCA64,Flat",
            "PCAWR64,Flat",
            "RR64,Flat",
            "RR,Flat",
            "L2norm,Flat",
            "Pad400,Flat",
            "ITQ192,LSH",
            "ITQ,LSHrt",
            "LSH8rt",
            "LSHr",
            "RaBitQ",
            "IVF512,RaBitQ,Refine(SQ8)",
            "IVF512,PRQ8x4x8_Nqint8",
            "PLSQ8x2x8_Nfloat",
            "RQ4x8_2x6_Nnone",
            "LSQ4x8_Nlsq2x4",
            "RQ64x4fs_Nrq2x4",
            "IVF8,ITQ8,SH",
            "IDMap2,Flat",
            "MinMaxFP16,SQ8",
            "ZnLattice2x8_4",
            "IVF8(RCQ2x4),PQ4",
        ] {
            assert_eq!(canonical(&factory.to_lowercase()), factory);
            assert_eq!(canonical(&factory.to_uppercase()), factory);
            assert_eq!(canonical(factory), factory);
        }
        assert_eq!(canonical("L2Norm,flat"), "L2norm,Flat");
        assert_eq!(canonical("Flut v\u{e9}c ,32"), "Flut v\u{e9}c ,32");
    }

    #[test]
    fn no_two_words_differ_in_case_alone() {
        for (at, word) in WORDS.iter().enumerate() {
            assert!(!WORDS[at + 1..].iter().any(|other| other.eq_ignore_ascii_case(word)), "{word}");
        }
    }
}
