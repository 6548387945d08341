//! What becomes of requests while everything is as it should be, and when an application is not there?

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::regions::eventually;
use crate::{World, got, send, world};

/// The first of three regions owns everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_where_it_belongs() {
    let http = "wait = \"2s\"\nanswer_within = \"20s\"\nreplay_body_max = \"64KiB\"\n
        [[http.route]]\npath = \"/strong/*\"\nowner = \"always\"
        [[http.route]]\npath = \"/near/*\"\nowner = \"never\"";
    let mut world = world("whole", 1, http).await;
    methods_and_rules_say_where(&world).await;
    what_is_told_of_its_way(&world).await;
    an_application_may_have_it_answered_elsewhere(&world).await;
    a_circle_ends(&world).await;
    bodies_pass_as_they_come(&world).await;
    a_connection_may_go_over_to_another_protocol(&world).await;
    http2_is_spoken_in_the_clear_as_well(&world).await;
    what_came_is_counted(&world).await;
    nothing_is_executed_twice(&mut world).await;
    crate::hostile::a_door_stays_open(&world.regions).await;
}

async fn methods_and_rules_say_where(world: &World) {
    let us = world.regions.door("us");
    for (method, path, region) in [
        ("GET", "/any", "us"),
        ("HEAD", "/any", "us"),
        ("POST", "/any", "eu"),
        ("DELETE", "/any", "eu"),
        ("GET", "/strong/balance", "eu"),
        ("POST", "/near/log", "us"),
    ] {
        let answer = send(us, method, path, &[], b"").await;
        assert_eq!(answer.header("domicile-region"), region, "{method} {path} {answer:?}");
        assert_eq!(answer.header("domicile-refused"), "", "only a door says so");
    }
    let answer = send(us, "POST", "/a%2Fb?c=d&e", &[], b"12345").await.json();
    assert_eq!(answer["path"], "/a%2Fb?c=d&e");
    assert_eq!(answer["bytes"], 5);
}

async fn what_is_told_of_its_way(world: &World) {
    let us = world.regions.door("us");
    let headers = [
        ("host", "shop.example"),
        ("x-forwarded-for", "198.51.100.1"),
        ("connection", "x-mine"),
        ("x-mine", "1"),
        ("domicile-replay-src", "region=ap"),
    ];
    let answer = send(us, "POST", "/any", &headers, b"").await.json();
    let told = &answer["headers"];
    assert_eq!(told["host"], "shop.example");
    assert_eq!(told["x-forwarded-for"], "198.51.100.1, 127.0.0.1");
    assert_eq!(told["x-forwarded-proto"], "http");
    assert_eq!(told["domicile-hop"], "from=us;partition=0");
    assert!(told.get("x-mine").is_none() && told.get("domicile-replay-src").is_none(), "{told}");
}

async fn an_application_may_have_it_answered_elsewhere(world: &World) {
    let us = world.regions.door("us");
    let body = vec![b'x'; 60_000];
    for (said, region) in [
        ("us domicile-replay region=ap;state=retry", "ap"),
        ("us domicile-replay region=owner", "eu"),
        ("us fly-replay region=\"fra,ap\"", "ap"),
        ("us domicile-replay region=us", "replayed-twice"),
        ("us domicile-replay region=fra", "no-replay"),
    ] {
        let answer = send(us, "POST", "/near/form", &[("x-replay", said)], &body).await;
        if answer.status != 200 {
            assert_eq!(answer.header("domicile-refused"), region, "{answer:?}");
            continue;
        }
        assert_eq!(answer.region(), region);
        assert_eq!(answer.json()["bytes"], body.len(), "the body came along");
        let source = if said.contains("fly") { "fly-replay-src" } else { "domicile-replay-src" };
        let state = if said.contains("state") { ";state=retry" } else { "" };
        assert_eq!(answer.json()["headers"][source], format!("region=us{state}"));
    }
    // The owner, too, may want it elsewhere: who has it from the client sends it there.
    let headers = [("x-replay", "eu domicile-replay region=us")];
    assert_eq!(send(us, "POST", "/any", &headers, b"1").await.region(), "us");
    let long = vec![b'x'; 80_000];
    let headers = [("x-replay", "us domicile-replay region=ap")];
    let answer = send(us, "POST", "/near/form", &headers, &long).await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (413, "body-not-kept"));
}

async fn a_circle_ends(world: &World) {
    // As another door would send it, which believes that us owns everything.
    let hop = [("domicile-hop", "from=ap;partition=0")];
    let answer = send(world.regions.door("us"), "POST", "/any", &hop, b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (508, "not-owner"));
    let via = [("via", "1.1 lab-us-door, 1.1 lab-us-door, 1.1 lab-us-door")];
    let answer = send(world.regions.door("us"), "GET", "/any", &via, b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (508, "circle"));
}

/// Each part of the answer is there before the next part of the request.
async fn bodies_pass_as_they_come(world: &World) {
    for http2 in [false, true] {
        let (parts, stream) = mpsc::channel(1);
        let part = |text: &'static str| Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
        let uri = format!("http://{}/echo", world.regions.door("us"));
        let request = Request::post(uri).body(StreamBody::new(ReceiverStream::new(stream)));
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        parts.send(part("first")).await.unwrap();
        let mut answer = client.request(request.unwrap()).await.unwrap();
        for next in ["second", "third", "fourth"] {
            let came = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(!came.is_empty());
            parts.send(part(next)).await.unwrap();
        }
        drop(parts);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "fourth");
    }
}

async fn a_connection_may_go_over_to_another_protocol(world: &World) {
    // At the owner, so over two doors; and here.
    for path in ["/socket", "/near/socket", "/strong/socket"] {
        let mut stream = TcpStream::connect(world.regions.door("us")).await.unwrap();
        let asks = format!(
            "GET {path} HTTP/1.1\r\nHost: us\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        );
        stream.write_all(asks.as_bytes()).await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(b"HELLO") {
            assert_ne!(
                stream.read_buf(&mut came).await.unwrap(),
                0,
                "{:?}",
                String::from_utf8(came)
            );
        }
        let head = String::from_utf8(came).unwrap().to_ascii_lowercase();
        let region = if path.contains("strong") { "eu" } else { "us" };
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        for header in
            ["upgrade: websocket", "connection: upgrade", &format!("domicile-region: {region}")]
        {
            assert!(head.contains(header), "{header}: {head}");
        }
        stream.write_all(b"again").await.unwrap();
        let mut more = [0; 5];
        stream.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"AGAIN");
    }
    let headers = [
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
    ];
    let answer = send(world.regions.door("us"), "GET", "/any", &headers, b"").await;
    let told = &answer.json()["headers"];
    assert_eq!(answer.status, 200, "as if nobody had asked for it");
    assert!(told.get("upgrade").is_none() && told.get("http2-settings").is_none(), "{told}");
    // An application that goes over to what nobody asked it for.
    let answer = send(world.regions.door("us"), "GET", "/near/socket", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (502, "broke-off"));
}

async fn http2_is_spoken_in_the_clear_as_well(world: &World) {
    let uri = format!("http://{}/any?a=b", world.regions.door("us"));
    let request = Request::post(uri).body(Full::new(Bytes::from("12345"))).unwrap();
    let answer = got(true, request).await;
    assert_eq!(answer.region(), "eu");
    let told = answer.json();
    assert_eq!((&told["path"], &told["bytes"]), (&"/any?a=b".into(), &5.into()));
    assert_eq!(told["headers"]["host"], world.regions.door("us").to_string());
}

async fn what_came_is_counted(world: &World) {
    let us = world.regions.door("us");
    let count = async |metric: &str| {
        let page = send(world.regions.metrics("us"), "GET", "/metrics", &[], b"").await;
        let page = String::from_utf8(page.body.to_vec()).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(metric));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    };
    let place = "cluster=\"lab\",region=\"us\"";
    let by = |region| {
        format!("domicile_http_requests_total{{{place},answered_by=\"{region}\",status=\"2xx\"}}")
    };
    let times = format!("domicile_http_request_duration_seconds_count{{{place}}}");
    let circles = format!("domicile_http_refused_requests_total{{{place},why=\"circle\"}}");
    assert_eq!(count(&circles).await, 1.0, "as was tried before");
    let before = [count(&by("us")).await, count(&by("eu")).await, count(&times).await];
    for method in ["GET", "POST", "POST"] {
        send(us, method, "/any", &[], b"").await;
    }
    let after = [count(&by("us")).await, count(&by("eu")).await, count(&times).await];
    assert_eq!(after, [before[0] + 1.0, before[1] + 2.0, before[2] + 3.0]);
    let under_way = format!("domicile_http_requests_under_way{{{place}}}");
    assert_eq!(count(&under_way).await, 0.0);
}

async fn nothing_is_executed_twice(world: &mut World) {
    let us = world.regions.door("us");
    let answer = send(us, "POST", "/break", &[], b"1").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (502, "broke-off"));
    let saw: usize = world.apps.values().map(|app| app.saw("POST /break 1")).sum();
    assert_eq!(saw, 1);
    let answer = send(us, "GET", "/break", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.header("domicile-refused")), (502, "broke-off"));
    let saw = ["us", "eu", "ap"].map(|region| world.apps[region].saw("GET /break "));
    assert_eq!(saw, [2, 1, 0], "a read is said again, and not all over the world");

    world.apps.get_mut("eu").unwrap().stop();
    let answer = send(us, "POST", "/any", &[], b"2").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("domicile-refused")),
        (502, "app-unreachable")
    );
    let saw: usize = world.apps.values().map(|app| app.saw("POST /any 2")).sum();
    assert_eq!(saw, 0);
    let answer = send(world.regions.door("eu"), "GET", "/any", &[], b"").await;
    assert_ne!(answer.region(), "eu", "reads pass over who does not answer");
    let answer = send(us, "GET", "/strong/balance", &[], b"").await;
    assert_eq!(answer.status, 502);
    world.apps.get_mut("eu").unwrap().resume().await;
    assert_eq!(send(us, "POST", "/any", &[], b"3").await.region(), "eu");

    world.regions.kill_agent("eu");
    let answer = send(us, "POST", "/any", &[], b"4").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"), "{answer:?}");
    assert_eq!(answer.header("domicile-refused"), "region-unreachable");
    assert_eq!(send(us, "GET", "/any", &[], b"").await.region(), "us");
    world.regions.start_agent("eu").unwrap();
    eventually("the owner's door is open again", async || {
        let answer = send(us, "POST", "/any", &[], b"5").await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(world.apps["eu"].saw("POST /any 4"), 0);
    assert_eq!(world.apps["eu"].saw("POST /any 5"), 1);
}
