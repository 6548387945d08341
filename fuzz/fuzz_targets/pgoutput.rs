//! Does anything that a walsender may send harm its reader?

#![no_main]

use bytes::Bytes;
use domicile_pg::feedback::{self, Event};
use domicile_pg::pgoutput::Decoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // One decoder for a whole stream: what it reads may change how it reads on.
    let mut decoder = Decoder::new();
    for piece in bytes.split(|byte| *byte == 0xFF) {
        let _ = decoder.decode(Bytes::copy_from_slice(piece));
        if let Ok(Event::XLogData(data)) = feedback::parse(Bytes::copy_from_slice(piece)) {
            let _ = decoder.decode(data.payload);
        }
    }
});
