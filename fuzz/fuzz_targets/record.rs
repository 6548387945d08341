//! Are the frames of the replication log read without a panic, whatever the disk returns?

#![no_main]

use bytes::Bytes;
use domicile_core::frame::{self, Compression, Pack, Packer, Taken};
use domicile_core::lsn::Lsn;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match frame::take(bytes) {
        Taken::Whole { lsn, payload, parts, consumed } => {
            let mut again = Vec::new();
            match parts {
                None => frame::append(&mut again, lsn, payload),
                Some(parts) => frame::append_large(&mut again, lsn, &parts, payload),
            }
            assert_eq!(again, &bytes[..consumed]);
        }
        Taken::Packed { pack, packed, .. } => drop(pack.unpack(packed)),
        Taken::Partial { needed } => assert!(needed > bytes.len()),
        Taken::Broken(_) => {}
    }
    if let Some(at) = frame::find_next(bytes, 0) {
        assert!(matches!(frame::take(&bytes[at..]), Taken::Whole { .. } | Taken::Packed { .. }));
    }
    // What LZ4 makes of bytes is what was packed, or nothing.
    let (last, length) = (Lsn(bytes.len() as u64), 64 << 10);
    for count in [1, 2] {
        let pack = Pack { first: Lsn(last.0.saturating_sub(1)), last, count, bytes: length };
        if let Ok(records) = pack.unpack(bytes) {
            assert_eq!(records.len(), count as usize);
        }
    }
    let records = [(last, Bytes::copy_from_slice(bytes))];
    let mut packed = Vec::new();
    Packer::new(Compression::Lz4).append(&mut packed, &records);
    match frame::take(&packed) {
        Taken::Packed { pack, packed, .. } => assert_eq!(pack.unpack(packed).unwrap(), records),
        taken => assert!(matches!(taken, Taken::Whole { payload, .. } if payload == bytes)),
    }
    // Chance hardly ever finds a checksum: give these bytes one, and damage what was framed.
    let mut framed = Vec::new();
    frame::append(&mut framed, last, bytes);
    assert!(matches!(frame::take(&framed), Taken::Whole { payload, .. } if payload == bytes));
    if let Some(&first) = bytes.first() {
        let at = usize::from(first) % framed.len();
        framed[at] ^= 1;
        assert!(!matches!(frame::take(&framed), Taken::Whole { .. }));
    }
});
