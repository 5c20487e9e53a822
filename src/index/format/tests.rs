#![allow(clippy::unwrap_used)]
use super::*;

pub(super) fn meta() -> Meta {
    Meta {
        index_id: 0x0102,
        dims: 3,
        rows_code: 1,
        factory: "Flat".into(),
        generation: 7,
        manifest: Some(BlobRef {
            id: 9,
            bytes: 10,
            crc32c: 11,
            extents: vec![Extent { start: 2, blocks: 1 }],
        }),
        delta_head: 1,
        delta_head_chunk: 0,
        delta_tail: 2,
        delta_next_chunk: 5,
    }
}

/// A change of these bytes requires a new FORMAT_VERSION, and the old bytes must stay readable.
#[test]
fn the_bytes_of_version_7_do_not_change() {
    let golden: Vec<u8> = [
        &b"VKTR"[..],
        &[7, 0, 0, 0],
        &[72, 136, 123, 60],
        &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 1],
        &[4, 0, 0, 0, 0, 0, 0, 0],
        b"Flat",
        &[7, 0, 0, 0, 0, 0, 0, 0],
        &[1],
        &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[10, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 5, 0, 0, 0],
    ]
    .concat();
    assert_eq!(meta().encode(), golden);
    assert_eq!(Meta::decode(&golden).unwrap(), meta());
    let tag = PageTag { owner: 0x0102, full_xid: 3, chunk: 4, kind: PageKind::Blob };
    let mut tag_bytes = [0u8; TAG_BYTES];
    (tag_bytes[0], tag_bytes[1], tag_bytes[16], tag_bytes[24]) = (2, 1, 3, 4);
    tag_bytes[28..].copy_from_slice(&[4, 7, 0x15, 0xFA]);
    assert_eq!(tag.to_bytes(), tag_bytes);
    assert_eq!(PageTag::from_bytes(&tag_bytes), Some(tag));
}

pub(super) fn sealed() -> SegmentRef {
    let run = DeltaRun {
        index_id: 0x0102,
        dims: 3,
        metric: 1,
        start_block: 4,
        start_chunk: 5,
        end_chunk: 6,
        tids_crc32c: 7,
    };
    SegmentRef {
        payload: BlobRef { id: 9, bytes: 10, crc32c: 11, extents: vec![Extent { start: 4, blocks: 2 }] },
        run: Some(run),
        rows: 12,
        dead_rows: 0,
        tombstones: None,
        factory: "Flat".into(),
        trained_rows: 0,
        trained_imbalance_percent: 0,
        points: Vec::new(),
        reason: String::new(),
    }
}

#[test]
fn the_bytes_of_a_segment_that_was_sealed_where_it_lay_do_not_change() {
    let golden: Vec<u8> = [
        &[1, 0, 0, 0, 0, 0, 0, 0][..],
        &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[10, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0],
        &[1],
        &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 1],
        &[4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0],
        &[12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0],
        &[4, 0, 0, 0, 0, 0, 0, 0],
        b"Flat",
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let manifest = Manifest { segments: vec![sealed()] };
    assert_eq!(manifest.encode(), golden);
    assert_eq!(Manifest::decode(&golden).unwrap(), manifest);
}

#[test]
fn an_unknown_version_is_refused_by_number() {
    let mut bytes = meta().encode();
    bytes[4] = 9;
    assert_eq!(Meta::decode(&bytes), Err(FormatError::Version(9)));
    let mut head = segment_head().encode().unwrap();
    head[6] = 9;
    assert_eq!(decode_segment(&head), Err(FormatError::Version(9)));
}

#[test]
fn a_zero_page_has_no_tag() {
    assert_eq!(PageTag::from_bytes(&[0; TAG_BYTES]), None);
}

#[test]
fn cut_or_damaged_bytes_are_refused() {
    let bytes = meta().encode();
    for length in 0..bytes.len() {
        assert!(Meta::decode(&bytes[..length]).is_err(), "length {length}");
    }
    let manifest = Manifest { segments: vec![] }.encode();
    assert!(Manifest::decode(&manifest[..4]).is_err());
}

pub(super) fn segment_head() -> SegmentHead {
    let mut head = SegmentHead {
        id: 5,
        rows: 101,
        dims: 3,
        metric: 2,
        tids_crc32c: 6,
        tids_at: 0,
        faiss_at: 0,
        faiss_bytes: 77,
        factory: "IVF4,Flat".into(),
    };
    head.place(45);
    head
}

fn decode_segment(payload: &[u8]) -> Result<SegmentHead, FormatError> {
    SegmentHead::decode(payload, payload.len() as u64)
}

#[test]
fn a_segments_largest_array_is_aligned() {
    assert_eq!((segment_head().faiss_at + 45) % 64, 0);
}

#[test]
fn a_segment_head_with_a_flipped_bit_is_refused() {
    let head = segment_head();
    let mut payload = head.encode().unwrap();
    payload.resize(head.payload_bytes() as usize, 0);
    assert_eq!(decode_segment(&payload).unwrap(), head);
    for at in 0..60 {
        payload[at] ^= 1;
        assert!(decode_segment(&payload).is_err(), "byte {at}");
        payload[at] ^= 1;
    }
    payload.pop();
    assert!(decode_segment(&payload).is_err(), "cut short");
}

#[test]
fn tids_keep_their_order_and_value() {
    let tids =
        [(0, 1), (0, 0xFFFF), (1, 1), (u32::MAX, 0xFFFF)].map(|(block, offset)| Tid::new(block, offset));
    assert!(tids.is_sorted());
    for tid in tids {
        assert_eq!(Tid::from_bytes(&tid.to_bytes()), tid);
    }
}

#[test]
fn delta_entries_fill_pages_and_overflow_beyond_one() {
    assert_eq!(DeltaLayout::new(384).entries_per_page, 5);
    assert_eq!(DeltaLayout::new(2024).overflow_pages, 0);
    assert_eq!(DeltaLayout::new(2025).overflow_pages, 1);
    let wide = DeltaLayout::new(16_000);
    assert_eq!((wide.entries_per_page, wide.overflow_pages), (1, 7));
    assert!(wide.head_elements + wide.overflow_pages * OVERFLOW_ELEMENTS >= 16_000);
}

#[test]
fn extents_cover_blocks_in_order() {
    let extents = Extent::cover(&[4, 5, 6, 9, 8]);
    assert_eq!(extents.len(), 3);
    assert_eq!(extents.iter().flat_map(|extent| extent.iter()).collect::<Vec<_>>(), [4, 5, 6, 9, 8]);
}

#[test]
fn gaps_are_what_extents_leave_whatever_their_order() {
    let extent = |start, blocks| Extent { start, blocks };
    assert_eq!(Extent::gaps(vec![], 3), [extent(0, 3)]);
    assert_eq!(
        Extent::gaps(vec![extent(6, 2), extent(0, 1), extent(3, 2)], 10),
        [extent(1, 2), extent(5, 1), extent(8, 2)]
    );
    assert_eq!(Extent::gaps(vec![extent(0, 5), extent(1, 2), extent(3, 4)], 7), []);
    assert_eq!(Extent::gaps(vec![extent(2, u32::MAX), extent(9, 1)], 7), [extent(0, 2)]);
}

#[test]
fn a_tier_has_four_times_the_rows_of_the_one_before() {
    assert_eq!(
        [0, 4095, 4096, 16_383, 16_384, 65_535, 65_536].map(|rows| Tiers::of_dims(512).tier(rows)),
        [0, 0, 1, 1, 2, 2, 3]
    );
    // 8 MiB of 32 KiB each.
    assert_eq!(
        [255, 256, 1023, 1024, 4095, 4096].map(|rows| Tiers::of_dims(8192).tier(rows)),
        [0, 1, 1, 2, 2, 3]
    );
}
