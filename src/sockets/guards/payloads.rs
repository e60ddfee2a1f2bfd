//! Payloads of polling clients: several packets in one body, framed differently in each Engine.IO
//! version.
//!
//! In engineioxide-core 0.2.3, the decoder loops forever and blocks a runtime thread if the length
//! of a version 3 packet ends inside a surrogate pair and more data follows. Only payloads whose
//! packets end where their lengths say are passed on.

use std::borrow::Cow;

use axum::body::Bytes;

use super::{
    connection_guard::Guard,
    input_limits::{Verdict, Violation},
    packets::{Packet, sort},
};

/// How the packets of a payload are framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Version 4: packets are separated by the record separator.
    Separated,
    /// Version 3, as text: `<length>:<packet>`.
    Counted,
    /// Version 3, as binary data: 0 for a text packet or 1 for a binary packet, the digits of the
    /// length, 255, and the packet.
    Binary,
}

/// The separator of version 4 packets.
const SEPARATOR: char = '\x1e';
/// Maximum number of digits in a length, as in engineioxide.
const MAX_LENGTH: usize = 8;

/// Counts every packet with `guard` and returns the payload without the packets that must not reach
/// socketioxide.
///
/// Errors: the violation, if there is one.
pub fn screen(payload: Bytes, framing: Framing, guard: &Guard) -> Result<Bytes, Violation> {
    if payload.is_empty() {
        return Ok(payload);
    }
    let packets = split(&payload, framing).ok_or(Violation::Broken)?;
    let mut passed = Vec::with_capacity(packets.len());
    let mut is_changed = false;
    for (packet, is_binary) in packets {
        let sorted = if is_binary {
            Packet::Binary
        } else {
            sort(packet.as_bytes(), true).unwrap_or(Packet::Broken)
        };
        match guard.packet(sorted)? {
            Verdict::Pass => passed.push(Cow::Borrowed(packet)),
            Verdict::Plain { announced } => {
                is_changed = true;
                passed.push(Cow::Owned(format!("42{}", &packet[2 + announced..])));
            }
            Verdict::Drop => is_changed = true,
        }
    }
    Ok(if is_changed {
        joined(&passed, framing)
    } else {
        payload
    })
}

/// Splits a payload into packets, each with a flag for binary. Returns `None` if the payload is
/// malformed.
fn split(payload: &[u8], framing: Framing) -> Option<Vec<(&str, bool)>> {
    match framing {
        Framing::Separated => Some(
            str::from_utf8(payload)
                .ok()?
                .split(SEPARATOR)
                .map(|packet| (packet, false))
                .collect(),
        ),
        Framing::Counted => split_counted(str::from_utf8(payload).ok()?),
        Framing::Binary => split_binary(payload),
    }
}

fn split_counted(mut payload: &str) -> Option<Vec<(&str, bool)>> {
    let mut packets = Vec::new();
    while !payload.is_empty() {
        let (length, behind) = payload.split_once(':')?;
        let (packet, rest) = behind.split_at(bytes_of(behind, length.parse().ok()?)?);
        packets.push((packet, false));
        payload = rest;
    }
    Some(packets)
}

/// Returns how many bytes the first `units` UTF-16 code units of the text take. JavaScript counts
/// lengths in these units.
fn bytes_of(text: &str, units: usize) -> Option<usize> {
    let mut left = units;
    for (at, c) in text.char_indices() {
        if left == 0 {
            return Some(at);
        }
        left = left.checked_sub(c.len_utf16())?;
    }
    (left == 0).then_some(text.len())
}

fn split_binary(mut payload: &[u8]) -> Option<Vec<(&str, bool)>> {
    let mut packets = Vec::new();
    while let Some((kind @ 0..=1, behind)) = payload.split_first() {
        let digits = behind
            .iter()
            .position(|byte| *byte == 0xff)
            .filter(|digits| (1..=MAX_LENGTH).contains(digits))?;
        let length = behind[..digits].iter().try_fold(0_usize, |length, digit| {
            (*digit <= 9).then(|| 10 * length + usize::from(*digit))
        })?;
        let (packet, rest) = behind[digits + 1..]
            .split_at_checked(length)
            .filter(|_| length > 0)?;
        packets.push(if *kind == 0 {
            (str::from_utf8(packet).ok()?, false)
        } else {
            ("", true)
        });
        payload = rest;
    }
    payload.is_empty().then_some(packets)
}

fn joined(packets: &[Cow<'_, str>], framing: Framing) -> Bytes {
    match framing {
        Framing::Separated => packets.join(&SEPARATOR.to_string()).into(),
        Framing::Counted => {
            let framed = |packet: &Cow<'_, str>| {
                [&packet.encode_utf16().count().to_string(), ":", packet].concat()
            };
            packets.iter().map(framed).collect::<String>().into()
        }
        Framing::Binary => {
            let framed = |packet: &Cow<'_, str>| {
                let length = packet.len().to_string();
                [
                    &[0],
                    &*length.bytes().map(|digit| digit - b'0').collect::<Vec<_>>(),
                    &[0xff],
                    packet.as_bytes(),
                ]
                .concat()
            };
            packets.iter().flat_map(framed).collect::<Vec<_>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_end_where_javascript_says_they_end() {
        for payload in ["1:2", "6:2probe1:2", "2:😀", "4:4😀é3:4:5", "0:1:2"] {
            let packets = split(payload.as_bytes(), Framing::Counted).unwrap();
            let packets: Vec<_> = packets
                .into_iter()
                .map(|(packet, _)| Cow::Borrowed(packet))
                .collect();
            assert_eq!(
                joined(&packets, Framing::Counted),
                payload.as_bytes(),
                "{payload}"
            );
        }
        for payload in [
            "1:😀x",
            "1:😀",
            "3:4😀x1:2",
            "2:x",
            "9:",
            "x",
            ":",
            "1",
            "-1:x",
            "1:22",
            "99999999999999999999:x",
        ] {
            assert_eq!(
                split(payload.as_bytes(), Framing::Counted),
                None,
                "{payload}"
            );
        }
    }

    #[test]
    fn binary_payloads_are_taken_apart_and_put_together() {
        let payload =
            b"\x00\x01\xff2\x01\x03\xff\x04ab\x00\x01\x04\xff42[\"\xc3\xa9 12345\"]".as_slice();
        let packets = split(payload, Framing::Binary).unwrap();
        assert_eq!(
            packets,
            [("2", false), ("", true), ("42[\"é 12345\"]", false)]
        );
        let texts: Vec<_> = packets
            .iter()
            .filter(|(_, is_binary)| !is_binary)
            .map(|(packet, _)| Cow::Borrowed(*packet))
            .collect();
        assert_eq!(
            joined(&texts, Framing::Binary),
            b"\x00\x01\xff2\x00\x01\x04\xff42[\"\xc3\xa9 12345\"]".as_slice()
        );
        for payload in [
            &b"\x00\x00\xff2"[..],
            b"\x02\x01\xff2",
            b"\x00\x01\xff",
            b"\xff",
            b"\x00",
            b"\x00\x0a\xff2",
            b"\x00\x01\xff\xff",
            b"\x00\xff",
        ] {
            assert_eq!(
                split(payload, Framing::Binary),
                None,
                "{}",
                payload.escape_ascii()
            );
        }
    }
}
