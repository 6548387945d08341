//! Which headers are for one connection only, which are ours, and what is told of a request's way?

use std::net::IpAddr;

use domicile_core::front::Why;
use domicile_core::id::RegionId;
use hyper::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use hyper::{Uri, Version};

/// From one region's door to another's.
pub const HOP: HeaderName = HeaderName::from_static("domicile-hop");
/// Why a door, and no application, has answered.
pub const REFUSED: HeaderName = HeaderName::from_static("domicile-refused");
/// Which region's application has answered.
pub const REGION: HeaderName = HeaderName::from_static("domicile-region");
/// By which an application wants a request answered elsewhere, each with what it gets told of there.
pub const REPLAY: [(HeaderName, HeaderName); 2] = [
    (HeaderName::from_static("domicile-replay"), HeaderName::from_static("domicile-replay-src")),
    (HeaderName::from_static("fly-replay"), HeaderName::from_static("fly-replay-src")),
];
/// How often a request may come through one door.
const PASSES_MAX: usize = 3;
const WEBSOCKET: &[u8] = b"websocket";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Takes out what is meant for this connection, and returns the protocol that it shall go over to, if any.
///
/// That is WebSocket or none: behind what goes over to HTTP/2 (`h2c`) requests would pass that no door has looked at.
/// Who asks for something else goes on as if it had not.
pub fn of_connection(headers: &mut HeaderMap, version: Version) -> Option<HeaderValue> {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
        .collect();
    let alone = headers.get_all(UPGRADE).iter().count() == 1;
    let upgrade = headers.remove(UPGRADE).filter(|protocol| {
        version == Version::HTTP_11
            && named.iter().any(|name| name == UPGRADE.as_str())
            && alone
            && protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET)
    });
    for name in named.iter().filter(|name| *name != "close") {
        headers.remove(name.as_str());
    }
    // We have told the client to go on already.
    for name in [
        EXPECT,
        CONNECTION,
        HTTP2_SETTINGS,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    upgrade
}

/// Puts in that the connection shall go over to another protocol.
pub fn put_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Puts in what we say, in the place of what was said.
pub fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let value = HeaderValue::try_from(text);
    headers.insert(name, value.expect("names of regions, and what came in a header"));
}

/// Takes out what only a door may say.
pub fn take_ours(headers: &mut HeaderMap) {
    headers.remove(HOP);
    for (_, source) in REPLAY {
        headers.remove(source);
    }
}

/// Puts cookies into one header, as HTTP/1.1 has them; in HTTP/2 each may come in its own.
pub fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
        headers.insert(COOKIE, joined.expect("what came in headers"));
    }
}

/// Tells the application who has asked, and by which name. What a load balancer in front has told stays.
pub fn put_forwarded(headers: &mut HeaderMap, uri: &Uri, client: IpAddr, encrypted: bool) {
    // HTTP/2 has the host in its address.
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        headers.insert(HOST, host);
    }
    let client = client.to_string();
    let before = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let all: Vec<&[u8]> = before.chain([client.as_bytes()]).collect();
    if let Ok(all) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        headers.insert(FORWARDED_FOR, all);
    }
    let protocol = if encrypted { "https" } else { "http" };
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(protocol));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

/// Notes that a request came through this door (RFC 9110, 7.6.3), unless it has been here too often.
///
/// An application may ask a door for something itself, for whoever has asked it.
pub fn pass(headers: &mut HeaderMap, cluster: &str, region: &RegionId) -> Result<(), Why> {
    let name = format!("{cluster}-{region}-door");
    let before = headers.get_all(VIA).iter().map(HeaderValue::as_bytes);
    let words = before.flat_map(|value| value.split(|byte| b", ".contains(byte)));
    if words.filter(|word| *word == name.as_bytes()).count() >= PASSES_MAX {
        return Err(Why::Circle);
    }
    let via = HeaderValue::try_from(format!("1.1 {name}")).expect("names of clusters and regions");
    headers.append(VIA, via);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&str, &str)]) -> HeaderMap {
        let pairs = of.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_is_for_one_connection_ends_there() {
        let mut given = headers(&[
            ("connection", "é, keep-alive, X-Mine"),
            ("connection", "close"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        assert_eq!(of_connection(&mut given, Version::HTTP_11), None);
        assert_eq!(given, headers(&[("accept", "*/*")]));
        let asked = || headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        let upgrade = of_connection(&mut asked(), Version::HTTP_11);
        assert_eq!(upgrade.unwrap(), "websocket");
        assert_eq!(of_connection(&mut asked(), Version::HTTP_10), None);
    }

    #[test]
    fn a_connection_goes_over_to_websocket_and_to_nothing_else() {
        let over = |protocols: &[&str]| {
            let asked = protocols.iter().map(|protocol| ("upgrade", *protocol));
            let mut given: Vec<_> = asked.chain([("connection", "upgrade")]).collect();
            given.push(("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"));
            let mut given = headers(&given);
            let over = of_connection(&mut given, Version::HTTP_11);
            assert!(given.is_empty(), "{given:?}");
            over.is_some()
        };
        assert!(over(&["WebSocket"]));
        for other in [&["h2c"][..], &["websocket, h2c"], &["websocket", "h2c"], &["shout"], &[]] {
            assert!(!over(other), "{other:?}");
        }
    }

    #[test]
    fn cookies_are_in_one_header() {
        let mut given = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut given);
        assert_eq!(given, headers(&[("cookie", "a=1; b=2; c=3")]));
    }

    #[test]
    fn a_request_that_comes_again_and_again_is_in_a_circle() {
        let eu: RegionId = "eu".parse().unwrap();
        let mut passed = headers(&[("via", "1.1 shop-us-door, 1.1 shop-eu-doors")]);
        for _ in 0..PASSES_MAX {
            assert_eq!(pass(&mut passed, "shop", &eu), Ok(()));
        }
        assert_eq!(pass(&mut passed, "shop", &eu), Err(Why::Circle));
        let joined =
            headers(&[("via", "1.1 é, 1.1 shop-eu-door, 1.1 shop-eu-door,1.1 shop-eu-door")]);
        assert_eq!(pass(&mut joined.clone(), "shop", &eu), Err(Why::Circle));
    }

    #[test]
    fn an_application_learns_who_has_asked() {
        let client: IpAddr = [192, 0, 2, 7].into();
        let mut told = headers(&[("x-forwarded-for", "198.51.100.1"), ("host", "shop.example")]);
        put_forwarded(&mut told, &Uri::from_static("/a"), client, true);
        let expected = headers(&[
            ("x-forwarded-for", "198.51.100.1, 192.0.2.7"),
            ("host", "shop.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
        ]);
        assert_eq!(told, expected);
        put_forwarded(&mut told, &Uri::from_static("http://other.example/a"), client, false);
        assert_eq!(told["host"], "other.example");
        assert_eq!(told["x-forwarded-proto"], "https", "a load balancer may have said so");
    }
}
