//! Settings that hold a secret. `Debug` and `Serialize` mask them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signing key. `Debug` and `Serialize` mask it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the bytes of the key, if one is set.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.0.is_empty()).then_some(self.0.as_bytes())
    }

    /// Whether the key can be one of [`Secrets`], where commas separate the keys.
    pub(super) fn can_be_listed(&self) -> bool {
        !self.0.contains(',')
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "********" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// Signing keys, separated by commas. `Debug` and `Serialize` mask them.
#[derive(Clone, Debug)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// Returns the bytes of each key.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(Secret::bytes)
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(
            text.split(',')
                .map(|secret| Secret(secret.trim().to_owned()))
                .filter(|secret| secret.bytes().is_some())
                .collect(),
        ))
    }
}

impl Serialize for Secrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let masked: Vec<_> = self.0.iter().map(|secret| format!("{secret:?}")).collect();
        serializer.serialize_str(&masked.join(","))
    }
}
