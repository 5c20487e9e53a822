//! Damaged bytes: thousands of bit flips and truncations of each structure, with and without a corrected checksum.
//! Decoding returns an error or a value; it never panics, and allocates no more than the length of the bytes justifies.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::catch_unwind;

use super::*;

thread_local! {
    /// Bytes that this thread has allocated, freed ones included.
    static ASKED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator with a count of each thread's allocations.
struct Counting;

// SAFETY: every call goes to the system's allocator as it is; the counter has no destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_BYTES.with(|asked| asked.set(asked.get().saturating_add(layout.size())));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// serde reserves this much for a list of any length; lists are nested, and each is read up to its first error.
const LIST_BYTES: usize = 3 << 20;

/// Pseudo-random numbers, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Calls `decode` with each bit flip, each truncation, lengths of all magnitudes at each offset, and random bytes.
fn damage(sound: &[u8], decode: &dyn Fn(&[u8])) {
    let show = |bytes: &[u8], what: &str| {
        let before = ASKED_BYTES.get();
        assert!(catch_unwind(std::panic::AssertUnwindSafe(|| decode(bytes))).is_ok(), "{what}: a panic");
        let asked = ASKED_BYTES.get() - before;
        assert!(asked <= LIST_BYTES + 64 * bytes.len(), "{what}: {asked} bytes were allocated");
    };
    let mut bytes = sound.to_vec();
    for at in 0..sound.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            show(&bytes, &format!("bit {bit} of byte {at}"));
            bytes[at] ^= 1 << bit;
        }
        show(&sound[..at], &format!("cut to {at} bytes"));
        for length in [u64::MAX, 1 << 62, 1 << 40, 1 << 31, 1 << 20] {
            let end = sound.len().min(at + 8);
            bytes[at..end].copy_from_slice(&length.to_le_bytes()[..end - at]);
            show(&bytes, &format!("{length:x} at byte {at}"));
            bytes.copy_from_slice(sound);
        }
    }
    let mut chance = Chance(7);
    for turn in 0..5_000 {
        for _ in 0..=chance.below(6) {
            let at = chance.below(bytes.len());
            bytes[at] = chance.below(256) as u8;
        }
        show(&bytes, &format!("turn {turn}"));
        bytes.copy_from_slice(sound);
    }
}

/// Checks the limits of a relation with this many blocks.
const BLOCKS: u32 = 100;

fn decode_meta(body: &[u8]) {
    if let Ok(meta) = Meta::decode(body)
        && meta.check_room(BLOCKS).is_ok()
    {
        assert!(meta.delta_head < BLOCKS && meta.delta_tail < BLOCKS);
        let _ = (meta.delta_bytes(), meta.fits());
    }
}

#[test]
fn a_damaged_meta_page_is_an_error_or_a_root_within_the_relation() {
    let sound = tests::meta().encode();
    damage(&sound, &|bytes| {
        assert!(Meta::decode(bytes).is_err() || bytes == sound || bytes[6..8] != sound[6..8], "unnoticed");
    });
    damage(&sound, &decode_meta);
    damage(&sound[12..], &|encoded| {
        let crc = crc32c::crc32c(encoded).to_le_bytes();
        decode_meta(&[&sound[..8], &crc, encoded].concat());
    });
}

#[test]
fn a_damaged_manifest_is_an_error_or_a_list_within_the_relation() {
    let mut stored = tests::sealed();
    stored.run = None;
    stored.factory = "IVF4,PQ2".into();
    stored.reason = "4,000 rows".into();
    stored.payload.bytes = 5_000;
    stored.payload.extents = vec![Extent { start: 7, blocks: 1 }];
    stored.tombstones =
        Some(BlobRef { id: 1, bytes: 2, crc32c: 3, extents: vec![Extent { start: 8, blocks: 1 }] });
    stored.points =
        vec![PointRef { nprobe: 1, ef_search: 2, k_factor_hundredths: 3, recall_millionths: 4, cost_ns: 5 }];
    let mut sealed = tests::sealed();
    sealed.payload.bytes = 4_300;
    let manifest = Manifest { segments: vec![sealed, stored] };
    assert_eq!(manifest.check_room(BLOCKS, 3), Ok(()));
    damage(&manifest.encode(), &|bytes| {
        let Ok(manifest) = Manifest::decode(bytes) else { return };
        if manifest.check_room(BLOCKS, 3).is_err() {
            return;
        }
        for segment in &manifest.segments {
            assert!(segment.payload.bytes <= u64::from(BLOCKS) * PAGE_BYTES as u64);
            assert!(segment.rows <= segment.payload.bytes && segment.dead_rows <= segment.rows);
        }
        assert!(manifest.blobs().flat_map(BlobRef::blocks).all(|block| block < BLOCKS));
    });
}

#[test]
fn a_damaged_segment_header_is_an_error_or_fits_its_payload() {
    let head = tests::segment_head();
    let sound = head.encode().unwrap();
    let bytes = head.payload_bytes();
    let used = 16 + u32::from_le_bytes(array(&sound[8..12])) as usize;
    let check = |payload: &[u8]| {
        if let Ok(head) = SegmentHead::decode(payload, bytes) {
            assert!(head.faiss_range().end as u64 == bytes && head.rows * TID_BYTES as u64 <= bytes);
        }
    };
    damage(&sound[..used], &|start| check(&[start, &sound[start.len()..]].concat()));
    for length in 0..sound.len() {
        assert!(SegmentHead::decode(&sound[..length], bytes).is_err(), "cut to {length} bytes");
    }
    damage(&sound[16..used], &|encoded| {
        let mut payload = sound[..8].to_vec();
        payload.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        payload.extend_from_slice(&crc32c::crc32c(encoded).to_le_bytes());
        payload.extend_from_slice(encoded);
        payload.resize(SEGMENT_HEAD_BYTES, 0);
        check(&payload);
    });
}

#[test]
fn a_damaged_delta_page_is_an_error_or_has_whole_entries() {
    for dims in [1, 3, 16_000] {
        let layout = DeltaLayout::new(dims);
        let head = DeltaHead { entries: 1, overflow_block: 5, overflow_id: 6, ..DeltaHead::EMPTY };
        let page = [&head.to_bytes()[..], &vec![7; layout.entry_bytes()]].concat();
        damage(&page[..page.len().min(200)], &|start| {
            for body in [start, &[start, &page[start.len()..]].concat()] {
                if let Ok((head, entries)) = DeltaHead::split(body, layout) {
                    assert_eq!(entries.len(), usize::from(head.entries) * layout.entry_bytes());
                    assert!(usize::from(head.entries) <= layout.entries_per_page);
                }
                let _ = DeltaHead::from_body(body);
            }
        });
    }
}

#[test]
fn a_short_overflow_page_is_damaged() {
    let body = [&overflow_head(9)[..], &[1; 40]].concat();
    damage(&body, &|body| {
        if let Ok((_, bytes)) = split_overflow(body) {
            assert_eq!(bytes.len() + 8, body.len());
        }
    });
    assert_eq!(split_overflow(&body).map(|(next, bytes)| (next, bytes.len())), Ok((9, 40)));
    assert!((0..8).all(|length| split_overflow(&body[..length]).is_err()));
}

#[test]
fn a_damaged_page_tag_is_none_or_a_tag() {
    let tag = PageTag { owner: 3, full_xid: 4, chunk: 5, kind: PageKind::Delta };
    damage(&tag.to_bytes(), &|bytes| {
        let mut whole = [0u8; TAG_BYTES];
        whole[..bytes.len()].copy_from_slice(bytes);
        let _ = PageTag::from_bytes(&whole);
    });
}
