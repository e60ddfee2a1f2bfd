//! Responses of the REST API, and checks of them.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A response: status, headers and JSON body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{status} without a JSON body: {text:?}"));
        Self {
            status: status.as_u16(),
            headers,
            body,
        }
    }

    /// Checks that the status is 200 and returns the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert_eq!(self.body["success"], true, "{}", self.body);
        self.body
    }

    /// Checks the status and message of an error and returns the body.
    #[track_caller]
    pub fn refused(self, status: u16, message: &str) -> Value {
        assert_eq!(
            (self.status, &self.body["message"]),
            (status, &json!(message)),
            "{}",
            self.body
        );
        assert_eq!(self.body["success"], false);
        self.body
    }

    /// Checks that validation failed with exactly these errors.
    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests write the errors down in the call"
    )]
    pub fn invalid(self, errors: Value) {
        let body = self.refused(400, "Kindly fix the error(s)");
        assert_eq!(body["errors"], errors);
    }
}

/// Checks that the response is a rate limit, with the same wait in the header and in the body.
/// Returns the wait in seconds.
#[track_caller]
pub fn limited(answer: Answer) -> u64 {
    let header: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = answer.refused(429, "rate limited");
    assert_eq!(body["retryAfter"], header);
    assert!((1..=60).contains(&header), "{header}");
    header
}
