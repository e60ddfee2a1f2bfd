//! Settings that hold a secret: they show it to nobody but to whoever needs it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key that shows itself to nobody.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The bytes of the key, if one is set.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.0.is_empty()).then_some(self.0.as_bytes())
    }

    /// Whether it can be one of [`Secrets`], where commas part the keys.
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

/// Keys, written with commas between them; they show themselves to nobody.
#[derive(Clone, Debug)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// The bytes of each key.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(Secret::bytes)
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(text.split(',').map(|secret| Secret(secret.trim().to_owned())).filter(|secret| secret.bytes().is_some()).collect()))
    }
}

impl Serialize for Secrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let masked: Vec<_> = self.0.iter().map(|secret| format!("{secret:?}")).collect();
        serializer.serialize_str(&masked.join(","))
    }
}
