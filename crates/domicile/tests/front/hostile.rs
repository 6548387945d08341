//! Does a door survive what nobody should send it?

use domicile::lab::regions::Regions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::send;

pub async fn a_door_stays_open(regions: &Regions) {
    let us = regions.door("us");
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: us\r\n\r\n").into_bytes();
    let long = format!("GET / HTTP/1.1\r\nHost: us\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: us\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let hop = "GET / HTTP/1.1\r\nHost: us\r\nDomicile-Hop: from=nobody at all\r\n\r\n";
    for bytes in [
        vec![0xff; 512],
        vec![0x16; 512],
        long.into_bytes(),
        many.into_bytes(),
        [preface.as_slice(), &[0xff; 512]].concat(),
        hop.as_bytes().to_vec(),
        head("GET http://"),
        head("CONNECT elsewhere.example:443"),
        b"POST /any HTTP/1.1\r\nHost: us\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /any HTTP/1.1\r\nHost: us\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n"
            .to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(),
    ] {
        let mut stream = TcpStream::connect(us).await.unwrap();
        // It may be closed before all of it was sent.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut came = Vec::new();
        let _ = stream.read_to_end(&mut came).await;
        let status = String::from_utf8_lossy(&came[..came.len().min(12)]).into_owned();
        assert!(
            !status.starts_with("HTTP/1.1 2"),
            "{status} {:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(send(us, "GET", "/any", &[], b"").await.region(), "us");
    }
}
