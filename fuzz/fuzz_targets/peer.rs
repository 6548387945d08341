//! Does any record that a peer may send harm us before we take it in?

#![no_main]

use bytes::Bytes;
use domicile_core::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let head = record::decode_head(&bytes);
    if let Ok(transaction) = record::decode(&bytes) {
        let head = head.expect("a whole record has a head");
        assert_eq!((head.lsn, &head.stamps), (transaction.lsn, &transaction.stamps));
        let again = record::decode(&Bytes::from(record::encode(&transaction)));
        assert_eq!(again, Ok(transaction), "what was read is written alike");
    }
});
