//! The macro for enums whose values are written as strings.

/// Defines an enum whose values are written as strings in the API, the databases and the settings.
///
/// The enum gets `ALL`, `as_str`, `parse`, and implements `Display`, `Serialize` and `Deserialize`.
/// Attributes are kept: with `#[serde(try_from = "String")]`, an implementation of
/// `TryFrom<String>` can give the error text of a wrong name.
///
/// ```ignore
/// string_enum! {
///     /// The kind of a user.
///     pub enum UserType {
///         /// A customer.
///         Consumer = "consumer",
///         /// A support user, who helps customers.
///         Support = "support",
///     }
/// }
/// assert_eq!(UserType::Support.as_str(), "support");
/// assert_eq!(UserType::parse("support"), Some(UserType::Support));
/// ```
macro_rules! string_enum {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        $(#[$meta])*
        $visibility enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All values, in the order in which they are listed to clients.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name of the value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// Returns the value with this name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use string_enum;
