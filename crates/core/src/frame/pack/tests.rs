use proptest::prelude::*;

use super::super::{FRAME_OVERHEAD_BYTES, PREFIX_BYTES, Taken, find_next, take};
use super::*;

/// As capture has them: nearly the same each time.
fn record(n: u64) -> (Lsn, Bytes) {
    let payload = format!("public pgbench_accounts aid bid abalance filler {n} 7 {}", n * 31);
    (Lsn(100 + 8 * n), payload.into())
}

fn records(count: u64) -> Vec<(Lsn, Bytes)> {
    (1..=count).map(record).collect()
}

fn packed(records: &[(Lsn, Bytes)]) -> Vec<u8> {
    let mut out = Vec::new();
    Packer::new(Compression::Lz4).append(&mut out, records);
    out
}

/// What a reader makes of frames that are all whole.
fn unpacked(mut bytes: &[u8]) -> Result<Vec<(Lsn, Bytes)>, Broken> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let consumed = match take(bytes) {
            Taken::Whole { lsn, payload, parts: None, consumed } => {
                records.push((lsn, Bytes::copy_from_slice(payload)));
                consumed
            }
            Taken::Packed { pack, packed, consumed } => {
                records.extend(pack.unpack(packed)?);
                consumed
            }
            Taken::Broken(broken) => return Err(broken),
            other => panic!("{other:?}"),
        };
        bytes = &bytes[consumed..];
    }
    Ok(records)
}

/// Writes the checksum anew, as one who means it would.
fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[PREFIX_BYTES..]);
    bytes[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn the_layout_is_the_documented_one() {
    let records = [(Lsn(7), Bytes::from(vec![b'x'; 200])), (Lsn(9), Bytes::from_static(b"end"))];
    let bytes = packed(&records);
    assert_eq!(bytes[..4], (bytes.len() as u32 - 8).to_le_bytes());
    assert_eq!(bytes[4..8], crc32c::crc32c(&bytes[8..]).to_le_bytes());
    assert_eq!(bytes[8..17], [3, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[17..25], [7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[25..33], [2, 0, 0, 0, 227, 0, 0, 0]);
    let plain = lz4_flex::block::decompress(&bytes[33..], 227).unwrap();
    assert_eq!(plain[..12], [7, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0]);
    assert_eq!(plain[212..], [9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, b'e', b'n', b'd']);
}

#[test]
fn records_that_resemble_one_another_take_a_fraction_of_their_bytes() {
    let records = records(5_000);
    let mut plain = Vec::new();
    Packer::new(Compression::None).append(&mut plain, &records);
    let bytes = packed(&records);
    assert!(bytes.len() * 3 < plain.len(), "{} of {}", bytes.len(), plain.len());
    assert_eq!(unpacked(&bytes), Ok(records.clone()));
    assert_eq!(unpacked(&plain), Ok(records));
}

#[test]
fn a_group_ends_before_it_is_too_large_to_be_unpacked_for_one_record() {
    let records = records(5_000);
    let (bytes, mut rest) = (packed(&records), 0);
    while let Taken::Packed { pack, consumed, .. } = take(&bytes[rest..]) {
        assert!(pack.bytes as usize <= GROUP_BYTES);
        rest += consumed;
    }
    assert_eq!(rest, bytes.len());
    assert!(matches!(take(&bytes), Taken::Packed { pack, .. } if pack.count > 1_000));
}

#[test]
fn what_would_not_get_shorter_stays_as_it_is() {
    let mut state = 1_u64;
    let noise = (0..5_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    for payload in [Bytes::from_static(b"short"), noise.collect(), Bytes::new()] {
        let bytes = packed(&[(Lsn(7), payload.clone())]);
        assert_eq!(bytes.len(), FRAME_OVERHEAD_BYTES + payload.len());
        assert!(matches!(take(&bytes), Taken::Whole { lsn: Lsn(7), .. }));
    }
}

#[test]
fn a_record_too_large_to_be_packed_stays_as_it_is_among_others_that_are() {
    let large = (Lsn(5), Bytes::from(vec![0; PACKED_BYTES_MAX]));
    let records = [(Lsn(3), Bytes::from(vec![1; 500])), large, (Lsn(8), Bytes::from(vec![2; 500]))];
    let bytes = packed(&records);
    assert!(bytes.len() > PACKED_BYTES_MAX && bytes.len() < PACKED_BYTES_MAX + 500);
    assert_eq!(unpacked(&bytes).unwrap(), records);
}

#[test]
fn numbers_that_cannot_be_true_are_broken_before_anything_is_allocated() {
    let whole = packed(&records(20));
    assert!(matches!(take(&whole), Taken::Packed { pack: Pack { count: 20, .. }, .. }));
    let first = Lsn(108).0.to_le_bytes();
    let lies: [(usize, &[u8]); 7] = [
        // A first LSN after the last, or so near to it that not all fit between them.
        (17, &u64::MAX.to_le_bytes()),
        (17, &Lsn(100 + 8 * 20 - 18).0.to_le_bytes()),
        // No record, or more than the bytes hold.
        (25, &0_u32.to_le_bytes()),
        (25, &u32::MAX.to_le_bytes()),
        // Too few bytes for the records, more than are allowed, more than LZ4 can say.
        (29, &19_u32.to_le_bytes()),
        (29, &u32::MAX.to_le_bytes()),
        (29, &(PACKED_BYTES_MAX as u32).to_le_bytes()),
    ];
    assert_eq!(whole[17..25], first);
    for (at, lie) in lies {
        let mut bytes = whole.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        seal(&mut bytes);
        assert_eq!(take(&bytes), Taken::Broken(Broken::Packed), "{lie:?} at {at}");
    }
}

#[test]
fn a_frame_that_unpacks_to_more_or_less_than_it_says_is_broken() {
    let whole = packed(&records(20));
    let Taken::Packed { pack, .. } = take(&whole) else { panic!("it is packed") };
    for bytes in [pack.bytes - 1, pack.bytes + 1, pack.bytes / 2] {
        let mut lie = whole.clone();
        lie[29..33].copy_from_slice(&bytes.to_le_bytes());
        seal(&mut lie);
        assert_eq!(unpacked(&lie), Err(Broken::Packed), "{bytes}");
    }
    for count in [19_u32, 21] {
        let mut lie = whole.clone();
        lie[25..29].copy_from_slice(&count.to_le_bytes());
        seal(&mut lie);
        assert_eq!(unpacked(&lie), Err(Broken::Packed), "{count}");
    }
}

#[test]
fn a_packed_frame_without_room_for_what_it_says_is_broken() {
    let mut bytes = packed(&records(20));
    bytes.truncate(PREFIX_BYTES + 24);
    bytes[..4].copy_from_slice(&24_u32.to_le_bytes());
    seal(&mut bytes);
    assert_eq!(take(&bytes), Taken::Broken(Broken::Length { len: 24 }));
}

#[test]
fn no_record_inside_of_a_torn_frame_passes_for_one_that_is_whole() {
    let mut noise = 1_u64;
    let records: Vec<_> = (1..60)
        .map(|n| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
            let mut payload = noise.to_le_bytes().to_vec();
            payload.extend_from_slice(&[0; 32]);
            (Lsn(n), Bytes::from(payload))
        })
        .collect();
    let bytes = packed(&records);
    assert!(matches!(take(&bytes), Taken::Packed { .. }));
    assert_eq!(find_next(&bytes, 0), Some(0));
    for cut in 0..bytes.len() {
        assert_eq!(find_next(&bytes[..cut], 0), None, "{cut}");
    }
}

fn any_records() -> impl Strategy<Value = Vec<(Lsn, Bytes)>> {
    // Few different bytes, so that many of them are packed.
    let payload = prop::collection::vec(prop_oneof![9 => Just(b' '), 1 => any::<u8>()], 0..300);
    prop::collection::vec((1..1_000_u64, payload), 0..12).prop_map(|steps| {
        let mut lsn = 0;
        let record = |(step, payload)| {
            lsn += step;
            (Lsn(lsn), Bytes::from(payload))
        };
        steps.into_iter().map(record).collect()
    })
}

proptest! {
    #[test]
    fn records_come_back_in_order(records in any_records()) {
        prop_assert_eq!(unpacked(&packed(&records)).unwrap(), records);
    }

    #[test]
    fn every_flipped_bit_is_noticed(records in any_records()) {
        let whole = packed(&records[..records.len().min(3)]);
        let consumed = match take(&whole) {
            Taken::Whole { consumed, .. } | Taken::Packed { consumed, .. } => consumed,
            _ => return Ok(()),
        };
        for bit in 0..consumed * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let noticed = matches!(take(&bytes), Taken::Partial { .. } | Taken::Broken(_));
            prop_assert!(noticed, "bit {}", bit);
        }
    }

    /// The checksum keeps out a disk's mistakes, not a peer that means to do harm.
    #[test]
    fn hostile_bytes_under_a_right_checksum_give_those_records_or_none(
        records in any_records(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..12),
    ) {
        let mut bytes = packed(&records);
        let Taken::Packed { consumed, .. } = take(&bytes) else { return Ok(()) };
        bytes.truncate(consumed);
        let at = PREFIX_BYTES + at.index(consumed - PREFIX_BYTES);
        let upto = consumed.min(at + with.len());
        bytes[at..upto].copy_from_slice(&with[..upto - at]);
        seal(&mut bytes);
        if let Taken::Packed { pack, packed, .. } = take(&bytes)
            && let Ok(records) = pack.unpack(packed)
        {
            prop_assert_eq!(records.len(), pack.count as usize);
            prop_assert!(records.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert_eq!(records.first().map(|r| r.0), Some(pack.first));
            prop_assert_eq!(records.last().map(|r| r.0), Some(pack.last));
        }
    }

    #[test]
    fn any_bytes_are_unpacked_without_a_panic(
        packed in prop::collection::vec(any::<u8>(), 0..300),
        (first, more) in (any::<u32>(), 0..40_u64),
        count in 1..20_u32,
        bytes in 0..70_000_u32,
    ) {
        let first = Lsn(first.into());
        let pack = Pack { first, last: Lsn(first.0 + more), count, bytes };
        if let Ok(records) = pack.unpack(&packed) {
            prop_assert_eq!(records.len(), count as usize);
        }
    }
}
