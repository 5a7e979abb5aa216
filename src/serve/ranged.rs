//! A part of a file, as it is asked for by a `Range` (RFC 9110, section 14): some browsers play sounds in no other way.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};

use super::problem::Problem;

/// A file of this kind, or the one range of them that `headers` ask for; several, and what is no range, are answered by all of them.
pub(super) fn ranged(headers: &HeaderMap, kind: &'static str, mut bytes: Vec<u8>) -> Response {
    let kind = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "private, max-age=600")];
    let length = bytes.len() as u64;
    // Nothing has a name by which it could be the same as before.
    let asked = headers.get(header::RANGE).filter(|_| !headers.contains_key(header::IF_RANGE));
    let ranges = asked.and_then(|range| parse_range_header(range.to_str().ok()?).ok());
    let mut response = match ranges.map(|ranges| ranges.validate(length)) {
        Some(Ok(ranges)) if ranges.len() == 1 => {
            let (first, last) = (*ranges[0].start(), *ranges[0].end());
            let told = [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}"))];
            bytes.truncate(last as usize + 1);
            (StatusCode::PARTIAL_CONTENT, kind, told, bytes.split_off(first as usize)).into_response()
        }
        Some(Err(RangeUnsatisfiableError::Unsatisfiable)) => {
            let why = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {length} bytes"));
            ([(header::CONTENT_RANGE, format!("bytes */{length}"))], why).into_response()
        }
        _ => (kind, bytes).into_response(),
    };
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(range: &'static str) -> (u16, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(range));
        if range.ends_with("17-") {
            headers.insert(header::IF_RANGE, HeaderValue::from_static("\"then\""));
        }
        let response = ranged(&headers, "audio/wav", b"0123456789".to_vec());
        let told = response.headers().get(header::CONTENT_RANGE).and_then(|told| told.to_str().ok().map(str::to_owned));
        (response.status().as_u16(), told)
    }

    #[test]
    fn one_range_is_answered_and_others_are_not() {
        for (range, told) in [("bytes=0-1", "0-1"), ("bytes=4-", "4-9"), ("bytes=-3", "7-9"), ("bytes=2-99", "2-9")] {
            assert_eq!(answered(range), (206, Some(format!("bytes {told}/10"))), "{range}");
        }
        assert_eq!(answered("bytes=10-"), (416, Some("bytes */10".to_owned())));
        for range in ["bytes=0-1, 4-5", "bytes=0-5,2-8,4-9", "lines=0-1", "bytes=x", "bytes=5-2", "bytes=17-"] {
            assert_eq!(answered(range), (200, None), "{range}");
        }
    }
}
