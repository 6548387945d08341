//! Are the frames of the replication log read without a panic, whatever the disk returns?

#![no_main]

use domicile_core::frame::{self, Taken};
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
        Taken::Partial { needed } => assert!(needed > bytes.len()),
        Taken::Broken(_) => {}
    }
    if let Some(at) = frame::find_next(bytes, 0) {
        assert!(matches!(frame::take(&bytes[at..]), Taken::Whole { .. }));
    }
    // Chance hardly ever finds a checksum: give these bytes one, and damage what was framed.
    let mut framed = Vec::new();
    frame::append(&mut framed, domicile_core::lsn::Lsn(bytes.len() as u64), bytes);
    assert!(matches!(frame::take(&framed), Taken::Whole { payload, .. } if payload == bytes));
    if let Some(&first) = bytes.first() {
        let at = usize::from(first) % framed.len();
        framed[at] ^= 1;
        assert!(!matches!(frame::take(&framed), Taken::Whole { .. }));
    }
});
