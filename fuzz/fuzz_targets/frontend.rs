//! Does any stream of messages, from a client or from a server, harm its reader?

#![no_main]

use bytes::BytesMut;
use domicile_pg::backend::{self, Report};
use domicile_pg::{frame, frontend};
use libfuzzer_sys::fuzz_target;

const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let mut stream = BytesMut::from(bytes);
    while let Ok(Some(message)) = frame::take(&mut stream, MESSAGE_BYTES_MAX) {
        let body = &message.body;
        let _ = frontend::read(message.tag, body);
        let _ = backend::ready_for_query(body);
        let _ = backend::authentication(body);
        let _ = backend::backend_key_data(body);
        let _ = backend::parameter_status(body);
        let _ = backend::command_complete(body);
        let Ok(report) = Report::read(body) else { continue };
        let _ = (report.code(), report.severity());
        let mut wire = BytesMut::new();
        report.put_error(&mut wire);
        let again = frame::take(&mut wire, usize::MAX).expect("we frame well").expect("all of it");
        assert_eq!(
            Report::read(&again.body).as_ref(),
            Ok(&report),
            "what was read is written alike"
        );
    }
});
