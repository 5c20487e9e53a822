//! Graphs of rows in many narrow clusters, as embeddings of real things come.

use super::data::*;
use vekter_engine::{Builder, Metric, SearchParams, on_worker};

/// Inserting in batches loses FAISS's order of insertion (upper levels of the whole graph first). With its default
/// efConstruction of 40, whole clusters were then out of reach of any search: recall@10 was 0.85 instead of 1.
#[test]
fn a_graph_that_is_built_in_batches_reaches_every_cluster() {
    const DIMS: usize = 64;
    const ROWS: usize = 20_000;
    const CLUSTERS: usize = 400;
    let mut random = Random(21);
    let genres: Vec<f32> = (0..12 * DIMS).map(|_| random.normal()).collect();
    let centres: Vec<f32> = (0..CLUSTERS)
        .flat_map(|cluster| genres[cluster % 12 * DIMS..][..DIMS].to_vec())
        .map(|value| value + 0.7 * random.normal())
        .collect();
    let mut draw = |rows: usize| -> Vec<f32> {
        let mut values = Vec::with_capacity(rows * DIMS);
        for _ in 0..rows {
            let cluster = random.below(CLUSTERS).min(random.below(CLUSTERS));
            for centre in &centres[cluster * DIMS..][..DIMS] {
                values.push(centre + 0.2 * random.normal());
            }
        }
        values
    };
    let (rows, queries) = (draw(ROWS), draw(100));

    vekter_engine::initialise(|| false);
    let mut builder = Builder::new("HNSW32", DIMS, Metric::L2).unwrap();
    for batch in rows.chunks(2_000 * DIMS) {
        builder.add(batch).unwrap();
    }
    let opened = open(&serialised(&builder), Metric::L2).unwrap();
    let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
    let reached = mean(&queries, |query| {
        let hits = opened.search(query, 10, &narrow(), None).unwrap();
        recall(&hits, &exact(Metric::L2, query, &rows, None), 10)
    });
    assert!(reached >= 0.98, "recall@10 is {reached}");
}

#[test]
fn rows_are_linked_after_they_were_added_in_parts_of_any_size() {
    const DIMS: usize = 24;
    const ROWS: u64 = 6_000;
    let all = clustered(ROWS as usize + 50, DIMS, 93);
    let (rows, queries) = all.split_at(ROWS as usize * DIMS);
    let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
    vekter_engine::initialise(|| false);
    for (factory, metric) in [("HNSW16", Metric::L2), ("HNSW16", Metric::L1), ("HNSW16,SQ8", Metric::L2)] {
        let mut builder = Builder::new(factory, DIMS, metric).unwrap();
        if builder.needs_training() {
            builder.train(rows).unwrap();
        }
        for batch in rows.chunks(700 * DIMS) {
            builder.add_unlinked(batch).unwrap();
        }
        assert_eq!((builder.rows(), builder.unlinked_rows()), (ROWS, ROWS));
        assert!(builder.write(&mut Vec::new()).is_err(), "rows without links were written");
        for part in [1, 2, 997, ROWS] {
            let before = builder.unlinked_rows();
            builder.link(part).unwrap();
            assert_eq!(builder.unlinked_rows(), before.saturating_sub(part));
        }
        let opened = open(&serialised(&builder), metric).unwrap();
        let reached = mean(&queries, |query| {
            let hits = opened.search(query, 10, &SearchParams::default(), None).unwrap();
            recall(&hits, &exact(metric, query, rows, None), 10)
        });
        assert!(reached >= 0.9, "{factory}: recall@10 is {reached}");
    }
}

/// Short lists of links are written again and again while other threads follow them.
#[test]
fn threads_that_link_rows_at_once_make_a_sound_graph() {
    const DIMS: usize = 32;
    const ROWS: usize = 3_000;
    let _together = CANCELLING.read();
    vekter_engine::initialise(|| false);
    for seed in 0..40 {
        let rows = clustered(ROWS, DIMS, seed);
        let mut builder = Builder::new("HNSW4", DIMS, Metric::L2).unwrap();
        builder.add_unlinked(&rows).unwrap();
        on_worker(8, &mut || {}, || builder.link(u64::MAX)).unwrap();
        let opened = open(&serialised(&builder), Metric::L2).unwrap();
        let params = SearchParams { ef_search: Some(200), ..SearchParams::default() };
        let reached = mean(&rows.chunks(DIMS).step_by(60).collect::<Vec<_>>(), |row| {
            let hits = opened.search(row, 10, &params, None).unwrap();
            recall(&hits, &exact(Metric::L2, row, &rows, None), 10)
        });
        assert!(reached >= 0.9, "recall@10 is {reached}");
    }
}

/// A row that is in a graph is found with less effort than one that is not, so as a query it promises too much. Held
/// out, it promises what queries get, or a little less.
#[test]
fn hidden_rows_are_as_hard_to_find_neighbours_of_as_rows_that_were_never_there() {
    const DIMS: usize = 48;
    const ROWS: usize = 10_000;
    let all = clustered(ROWS + 500, DIMS, 91);
    let (rows, others) = all.split_at(ROWS * DIMS);
    let held_out: Vec<u64> = (0..500).map(|i| i * 20 + 7).collect();
    let mut dead = vec![0u8; ROWS.div_ceil(8)];
    held_out.iter().for_each(|at| dead[(at / 8) as usize] |= 1 << (at % 8));
    let own: Vec<&[f32]> = held_out.iter().map(|&at| &rows[at as usize * DIMS..][..DIMS]).collect();
    let others: Vec<&[f32]> = others.chunks(DIMS).collect();
    let narrow = SearchParams { ef_search: Some(10), ..SearchParams::default() };

    vekter_engine::initialise(|| false);
    for factory in ["HNSW8", "HNSW32", "PCA32,HNSW16,RFlat"] {
        let mut builder = Builder::new(factory, DIMS, Metric::L2).unwrap();
        if builder.needs_training() {
            builder.train(rows).unwrap();
        }
        builder.add(rows).unwrap();
        let before = serialised(&builder);
        let reached = |builder: &Builder, queries: &[&[f32]], dead: Option<&[u8]>| {
            mean(queries, |query| {
                let hits = builder.search_unwritten(query, 10, &narrow, None).unwrap();
                recall(&hits, &exact(Metric::L2, query, rows, dead), 10)
            })
        };
        let of_others = reached(&builder, &others, None);
        let of_held_out = reached(&builder.hold_out(&held_out).unwrap(), &own, Some(&dead));
        println!("{factory}: {of_others:.4} of rows that are not in it, {of_held_out:.4} of held_out ones");
        assert!(of_held_out <= of_others + 0.02, "{factory}: {of_held_out} of {of_others}");
        assert!(of_held_out >= of_others - 0.08, "{factory}: {of_held_out} of {of_others}");
        assert!(serialised(&builder) == before, "{factory} is not what it was");
    }
}

/// Where there are no links, a search is told what not to find.
#[test]
fn hidden_rows_of_lists_and_scans_are_not_found() {
    const DIMS: usize = 16;
    let rows = clustered(3_000, DIMS, 92);
    vekter_engine::initialise(|| false);
    for factory in ["IVF32,Flat", "SQ8", "IVF32,PQ8x4fs,RFlat"] {
        let mut builder = Builder::new(factory, DIMS, Metric::L2).unwrap();
        builder.train(&rows).unwrap();
        builder.add(&rows).unwrap();
        let held_out = builder.hold_out(&[5, 2_999]).unwrap();
        for at in [5, 2_999] {
            let query = &rows[at * DIMS..][..DIMS];
            let hits = held_out.search_unwritten(query, 10, &narrow(), held_out.dead()).unwrap();
            assert!(!hits.is_empty() && hits.iter().all(|hit| hit.position != 5 && hit.position != 2_999));
        }
        drop(held_out);
        assert!(builder.hold_out(&[]).unwrap().dead().is_none());
    }
}

/// A long queue is searched by code of our own, which finds what FAISS's finds.
#[test]
fn a_long_queue_finds_no_less_than_a_short_one() {
    const DIMS: usize = 16;
    let all = clustered(8_050, DIMS, 5);
    let (rows, queries) = all.split_at(8_000 * DIMS);
    // All but every tenth.
    let mut dead = vec![0xffu8; 1_000];
    (0..8_000).step_by(10).for_each(|row| dead[row / 8] &= !(1 << (row % 8)));
    for (factory, metric) in [("HNSW16", Metric::L2), ("HNSW16,SQ8", Metric::Cosine), ("HNSW16", Metric::L1)]
    {
        let rows = prepared(metric, rows.to_vec(), DIMS);
        let queries = prepared(metric, queries.to_vec(), DIMS);
        let index = open(&serialised(&build(factory, metric, &rows, DIMS).unwrap()), metric).unwrap();
        for dead in [None, Some(&dead[..])] {
            let found = |query: &[f32], queue: usize| {
                let params = SearchParams { ef_search: Some(queue), ..SearchParams::default() };
                let hits = index.search(query, 10, &params, dead).unwrap();
                check_form(&hits, 10, 8_000, dead);
                hits
            };
            for query in queries.chunks(DIMS) {
                // Of 384 candidates FAISS takes care, of one more the engine; with nine in ten dead, of ten times as
                // many.
                let queue = if dead.is_some() { 38 } else { 384 };
                let (short, long) = (found(query, queue), found(query, queue + 1));
                let farther = short.iter().zip(&long).filter(|(short, long)| long.distance > short.distance);
                assert_eq!(farther.count(), 0, "{factory}: {short:?} {long:?}");
            }
        }
    }
}
