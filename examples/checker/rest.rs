//! REST requests and their outcomes.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::Failure;

/// How long a client waits for a response; longer than the server's own request timeout.
const PATIENCE: Duration = Duration::from_secs(15);

/// The outcome of a request.
pub enum Outcome {
    /// The request was executed; the response.
    Done(Value),
    /// The request was refused: the status (0 on a socket) and the reason.
    Refused(u16, String),
    /// It is unknown whether the request was executed.
    Unsure,
    /// The server reported an internal error: the outcome is unknown, and the error itself is a
    /// violation.
    Broken(String),
}

impl Outcome {
    /// Converts an acknowledgement on a socket.
    pub fn of_ack(answer: Value) -> Self {
        if answer["success"] == true {
            return Self::Done(answer);
        }
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        match message.as_str() {
            "The service is not available right now, please try again"
            | "The request took too long and was given up" => Self::Unsure,
            "Something went wrong on our side" => Self::Broken(message),
            _ => Self::Refused(0, message),
        }
    }

    /// Sends a request and converts the response.
    pub async fn of(request: RequestBuilder) -> Self {
        let Ok(response) = request.timeout(PATIENCE).send().await else {
            return Self::Unsure;
        };
        let status = response.status().as_u16();
        let Ok(body) = response.json::<Value>().await else {
            return Self::Unsure;
        };
        let message = || body["message"].as_str().unwrap_or_default().to_owned();
        match status {
            200 if body["success"] == true => Self::Done(body),
            500 | 200 => Self::Broken(format!("{status} {body}")),
            501.. => Self::Unsure,
            _ => Self::Refused(status, message()),
        }
    }

    /// Returns the response. Errors: any other outcome.
    pub fn done(self) -> Result<Value, Failure> {
        match self {
            Self::Done(body) => Ok(body),
            Self::Refused(status, message) => Err(format!("{status} {message}").into()),
            Self::Unsure => Err("no answer".into()),
            Self::Broken(message) => Err(message.into()),
        }
    }
}

/// A user's access to one of the servers.
#[derive(Clone)]
pub struct Caller {
    pub http: reqwest::Client,
    pub base: String,
    pub token: String,
}

impl Caller {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        Outcome::of(self.request(Method::GET, path))
            .await
            .done()
            .map_err(|error| format!("GET {path}: {error}").into())
    }

    pub async fn sends(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let outcome = Outcome::of(self.request(method.clone(), path).json(body)).await;
        outcome
            .done()
            .map_err(|error| format!("{method} {path}: {error}").into())
    }
}
