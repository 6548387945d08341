//! Does any first packet of a connection harm its reader?

#![no_main]

use bytes::BytesMut;
use domicile_pg::startup::{self, FirstPacket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(packet)) = startup::take(&mut buffer) else { return };
    let mut wire = BytesMut::new();
    match &packet {
        FirstPacket::Cancel(request) => request.put(&mut wire),
        FirstPacket::Startup(startup) => startup.put(&mut wire),
        FirstPacket::SslRequest => startup::put_ssl_request(&mut wire),
        FirstPacket::GssEncRequest => return,
    }
    assert_eq!(
        startup::take(&mut wire),
        Ok(Some(packet.clone())),
        "what was read is written alike"
    );
    if let FirstPacket::Startup(mut startup) = packet {
        if let Some(negotiation) = startup.settle() {
            negotiation.put(&mut wire);
        }
        assert_eq!(startup.settle(), None, "settled once, settled for good");
    }
});
