//! Classifies client packets by their beginning.
//!
//! No event takes binary data and only the default namespace exists. However, socketioxide keeps
//! announced attachments in memory until the last one has arrived, and answers a CONNECT with the
//! name of the namespace, of any length. Packets are therefore classified before they reach it.

/// Maximum number of bytes that [`sort`] reads.
pub const MAX_BEGINNING: usize = 48;
/// Maximum length of a namespace whose CONNECT socketioxide may answer (with `Invalid namespace`).
const MAX_NAMESPACE: usize = 32;
/// Maximum number of digits in an attachment count.
const MAX_COUNT: usize = 9;

/// The type of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// An Engine.IO packet or an invalid one. socketioxide answers it or ends the connection.
    Transport,
    /// CONNECT. socketioxide refuses any namespace other than the default one.
    Connect,
    /// An event for the default namespace.
    Event,
    /// DISCONNECT from the default namespace, or a packet that no client needs to send.
    Other,
    /// A packet for another namespace or a binary acknowledgement, which must not reach
    /// socketioxide.
    Ignored {
        /// Number of binary packets that belong to it.
        attachments: u32,
    },
    /// An event with attachments. It is processed without them, as an event whose arguments have
    /// the wrong type.
    BinaryEvent {
        /// Number of binary packets that belong to it.
        attachments: u32,
        /// Length of the attachment count and its separator after the packet type, in characters.
        announced: usize,
    },
    /// A binary packet, encoded as text.
    Binary,
    /// A packet that violates the protocol.
    Broken,
}

/// Returns the type of a packet with this beginning, or `None` if more bytes are needed. `is_whole`
/// means that the packet ends here.
pub fn sort(beginning: &[u8], is_whole: bool) -> Option<Packet> {
    match beginning {
        [b'b', ..] => Some(Packet::Binary),
        [b'4', kind @ b'0'..=b'3', rest @ ..] => sort_plain(*kind, rest, is_whole),
        [b'4', kind @ (b'5' | b'6'), rest @ ..] => sort_binary(*kind, rest, is_whole),
        [b'4'] | [] if !is_whole => None,
        _ => Some(Packet::Transport),
    }
}

fn sort_plain(kind: u8, rest: &[u8], is_whole: bool) -> Option<Packet> {
    match (kind, namespace(rest, is_whole)?) {
        (b'0', Namespace::Default | Namespace::Short) => Some(Packet::Connect),
        (b'2', Namespace::Default) => Some(Packet::Event),
        (_, Namespace::Default) => Some(Packet::Other),
        (_, Namespace::Short | Namespace::Long) => Some(Packet::Ignored { attachments: 0 }),
    }
}

fn sort_binary(kind: u8, rest: &[u8], is_whole: bool) -> Option<Packet> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits) {
        None if !is_whole && digits <= MAX_COUNT => None,
        Some(b'-') if (1..=MAX_COUNT).contains(&digits) => {
            let attachments = str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
            let is_event =
                kind == b'5' && namespace(&rest[digits + 1..], is_whole)? == Namespace::Default;
            Some(if is_event {
                Packet::BinaryEvent {
                    attachments,
                    announced: digits + 1,
                }
            } else {
                Packet::Ignored { attachments }
            })
        }
        _ => Some(Packet::Broken),
    }
}

#[derive(PartialEq, Eq)]
enum Namespace {
    Default,
    Short,
    Long,
}

/// Parses the namespace. It begins with a slash, and ends with a comma or the end of the packet.
fn namespace(rest: &[u8], is_whole: bool) -> Option<Namespace> {
    match rest {
        [] if !is_whole => None,
        [b'/', rest @ ..] => match rest
            .iter()
            .take(MAX_NAMESPACE)
            .position(|byte| *byte == b',')
        {
            Some(0) => Some(Namespace::Default),
            None if rest.len() >= MAX_NAMESPACE => Some(Namespace::Long),
            None if !is_whole => None,
            None if rest.is_empty() => Some(Namespace::Default),
            Some(_) | None => Some(Namespace::Short),
        },
        _ => Some(Namespace::Default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SORTED: [(&str, Packet); 31] = [
        ("", Packet::Transport),
        ("2", Packet::Transport),
        ("2probe", Packet::Transport),
        ("é", Packet::Transport),
        ("4", Packet::Transport),
        ("44", Packet::Transport),
        ("4é", Packet::Transport),
        ("40", Packet::Connect),
        ("40{\"token\":\"x\"}", Packet::Connect),
        ("40/", Packet::Connect),
        ("40/,{}", Packet::Connect),
        ("40/nowhere", Packet::Connect),
        ("40/nowhere,{}", Packet::Connect),
        ("41", Packet::Other),
        ("431[]", Packet::Other),
        ("42[\"x\"]", Packet::Event),
        ("4217[\"x\"]", Packet::Event),
        ("42/,17[\"x\"]", Packet::Event),
        ("42/nowhere,[\"x\"]", Packet::Ignored { attachments: 0 }),
        ("41/nowhere", Packet::Ignored { attachments: 0 }),
        (
            "40/a-namespace-that-is-longer-than-any",
            Packet::Ignored { attachments: 0 },
        ),
        (
            "451-[\"x\"]",
            Packet::BinaryEvent {
                attachments: 1,
                announced: 2,
            },
        ),
        (
            "4510000-/,7[\"x\"]",
            Packet::BinaryEvent {
                attachments: 10_000,
                announced: 6,
            },
        ),
        ("452-/nowhere,[\"x\"]", Packet::Ignored { attachments: 2 }),
        ("461-1[]", Packet::Ignored { attachments: 1 }),
        ("45", Packet::Broken),
        ("45-[]", Packet::Broken),
        ("451[]", Packet::Broken),
        ("451", Packet::Broken),
        ("459999999999-[]", Packet::Broken),
        ("bAAAA", Packet::Binary),
    ];

    #[test]
    fn packets_are_told_apart_by_their_beginning() {
        for (text, packet) in SORTED {
            assert_eq!(sort(text.as_bytes(), true), Some(packet), "{text}");
        }
    }

    #[test]
    fn a_beginning_is_decided_as_the_whole_packet_is_or_not_at_all() {
        for (text, packet) in SORTED {
            for end in 0..=text.len().min(MAX_BEGINNING) {
                let decided = sort(&text.as_bytes()[..end], false);
                assert!(
                    decided.is_none_or(|decided| decided == packet),
                    "{text}, {end} bytes: {decided:?}"
                );
            }
        }
    }

    #[test]
    fn the_longest_beginning_is_enough() {
        for text in [
            "40/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "45999999999-/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "45999999999999999999999999999999999999999999999",
        ] {
            assert!(
                sort(&text.as_bytes()[..MAX_BEGINNING.min(text.len())], false).is_some(),
                "{text}"
            );
        }
    }
}
