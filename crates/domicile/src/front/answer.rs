//! What does a door send back: an application's answer, or its own?

use bytes::Bytes;
use domicile_core::front::Why;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::headers::REFUSED;

/// A body that is passed on as it comes, or a few words of ours.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// Seconds after which it is worth another attempt.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

pub fn passed_on(answer: Response<Incoming>) -> Response<Body> {
    answer.map(|body| body.boxed())
}

/// Says why nobody answers: a sentence for people, and its slug in [`REFUSED`].
pub fn refusal(why: &Why) -> Response<Body> {
    let text = Full::from(format!("{why}\n")).map_err(|never| match never {});
    let mut answer = Response::new(text.boxed());
    *answer.status_mut() =
        StatusCode::from_u16(why.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(REFUSED, HeaderValue::from_static(why.slug()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if why.is_passing() {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    answer
}
