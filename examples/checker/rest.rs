//! Requests, and the three ways in which they end.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::Failure;

/// How long a request may take before nobody waits for it any more. Longer than the server allows itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of something that was asked for.
pub enum Outcome {
    /// It was done.
    Done(Value),
    /// It was not: the status (0 on a socket) and why.
    Refused(u16, String),
    /// Nobody knows.
    Unsure,
    /// The server says that the fault is its own: nobody knows either, and it should never happen.
    Broken(String),
}

impl Outcome {
    /// As an answer on a socket says.
    pub fn of_ack(answer: Value) -> Self {
        if answer["success"] == true {
            return Self::Done(answer);
        }
        let message = answer["message"].as_str().unwrap_or_default().to_owned();
        match message.as_str() {
            "The service is not available right now, please try again" | "The request took too long and was given up" => Self::Unsure,
            "Something went wrong on our side" => Self::Broken(message),
            _ => Self::Refused(0, message),
        }
    }

    /// Sends a request.
    pub async fn of(request: RequestBuilder) -> Self {
        let Ok(response) = request.timeout(PATIENCE).send().await else { return Self::Unsure };
        let status = response.status().as_u16();
        let Ok(body) = response.json::<Value>().await else { return Self::Unsure };
        let message = || body["message"].as_str().unwrap_or_default().to_owned();
        match status {
            200 if body["success"] == true => Self::Done(body),
            500 | 200 => Self::Broken(format!("{status} {body}")),
            501.. => Self::Unsure,
            _ => Self::Refused(status, message()),
        }
    }

    /// What was done, or why not.
    pub fn done(self) -> Result<Value, Failure> {
        match self {
            Self::Done(body) => Ok(body),
            Self::Refused(status, message) => Err(format!("{status} {message}").into()),
            Self::Unsure => Err("no answer".into()),
            Self::Broken(message) => Err(message.into()),
        }
    }
}

/// Somebody who calls one of the servers.
#[derive(Clone)]
pub struct Caller {
    pub http: reqwest::Client,
    pub base: String,
    pub token: String,
}

impl Caller {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).header("authorization", format!("Bearer {}", self.token))
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        Outcome::of(self.request(Method::GET, path)).await.done().map_err(|error| format!("GET {path}: {error}").into())
    }

    pub async fn sends(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        let outcome = Outcome::of(self.request(method.clone(), path).json(body)).await;
        outcome.done().map_err(|error| format!("{method} {path}: {error}").into())
    }
}
