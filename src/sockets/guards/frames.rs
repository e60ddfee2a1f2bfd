//! Follows the frames of a websocket, and decides which messages socketioxide reads.

use tokio::io::ReadBuf;

use super::{
    connection_guard::Guard,
    input_limits::{Verdict, Violation},
    packets::{MAX_BEGINNING, Packet, sort},
};

pub(super) const FIN: u8 = 0x80;
pub(super) const MASKED: u8 = 0x80;
pub(super) const TEXT: u8 = 0x1;

/// Maximum number of bytes held back until the type of their message is known. The beginning of a
/// message may arrive in many small frames.
const MAX_WAITING: usize = 4 * 1024;

/// The packet type that hidden messages are overwritten with.
const PONG: u8 = b'3';

const BINARY: u8 = 0x2;

const FIRST_CONTROL: u8 = 0x8;

const OPCODE: u8 = 0x0f;

/// Parses the frames of a client, and holds back the bytes of a message until its verdict is known.
#[derive(Default)]
pub(super) struct Frames {
    /// Bytes that socketioxide has not read yet.
    bytes: Vec<u8>,
    /// How many of those bytes it may read.
    passed: usize,
    at: FrameState,
    message: Message,
}

/// The position in a frame.
enum FrameState {
    Head {
        head: [u8; 14],
        length: usize,
    },
    Payload {
        left: u64,
        mask: [u8; 4],
        position: usize,
        of: Part,
    },
}

impl Default for FrameState {
    fn default() -> Self {
        Self::Head {
            head: [0; 14],
            length: 0,
        }
    }
}

/// What a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Message { is_last: bool },
    Control,
}

/// The message that is being received.
#[derive(Default)]
enum Message {
    /// No message.
    #[default]
    Between,
    /// The unmasked beginning, and for each of its bytes the position in `bytes` and the mask.
    Begins {
        beginning: Vec<u8>,
        places: Vec<(usize, u8)>,
    },
    /// The message is passed on.
    Passes,
    /// The message is being overwritten.
    Hidden,
}

impl Frames {
    /// Moves bytes that may be passed on into `buffer`. Returns false if there are none.
    pub(super) fn take(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.passed.min(buffer.remaining());
        if count == 0 {
            return false;
        }
        buffer.put_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        self.passed -= count;
        if let Message::Begins { places, .. } = &mut self.message {
            for (place, _) in places {
                *place -= count;
            }
        }
        if self.bytes.is_empty() {
            // Frees the buffer, so that an idle connection holds no memory.
            self.bytes = Vec::new();
        }
        true
    }

    pub(super) fn screen(&mut self, mut read: &[u8], guard: &Guard) -> Result<(), Violation> {
        while let Some((&byte, rest)) = read.split_first() {
            let taken = match &mut self.at {
                FrameState::Head { head, length } => {
                    if *length == 0 && !matches!(self.message, Message::Begins { .. }) {
                        self.passed = self.bytes.len();
                    }
                    head[*length] = byte;
                    *length += 1;
                    self.bytes.push(byte);
                    read = rest;
                    if *length >= 2 && *length == head_length(head[1]) {
                        let head = *head;
                        self.begin_frame(&head, guard)?;
                    }
                    continue;
                }
                FrameState::Payload { left, .. } => {
                    usize::try_from(*left).unwrap_or(usize::MAX).min(read.len())
                }
            };
            self.payload(&read[..taken], guard)?;
            read = &read[taken..];
        }
        self.pass();
        if self.bytes.len() - self.passed > MAX_WAITING {
            Err(Violation::Broken)
        } else {
            Ok(())
        }
    }

    /// Handles a complete frame header, which is at the end of `bytes`.
    fn begin_frame(&mut self, head: &[u8; 14], guard: &Guard) -> Result<(), Violation> {
        let (opcode, is_last) = (head[0] & OPCODE, head[0] & FIN != 0);
        let (left, mask) = length_and_mask(head);
        let of = if opcode >= FIRST_CONTROL {
            Part::Control
        } else {
            Part::Message { is_last }
        };
        if of != Part::Control {
            guard.receives(left)?;
        }
        match opcode {
            TEXT => {
                self.message = Message::Begins {
                    beginning: Vec::new(),
                    places: Vec::new(),
                }
            }
            BINARY => {
                guard.packet(Packet::Binary)?;
                let first = self.bytes.len() - head_length(head[1]);
                self.bytes[first] = head[0] & !OPCODE | TEXT;
                self.message = Message::Hidden;
            }
            // Other opcodes, valid or not, are left to socketioxide.
            _ => {}
        }
        self.at = FrameState::Payload {
            left,
            mask,
            position: 0,
            of,
        };
        if left == 0 {
            self.end_frame(of, guard)
        } else {
            Ok(())
        }
    }

    /// Handles a piece of the payload, which must not be longer than the rest of the payload.
    fn payload(&mut self, piece: &[u8], guard: &Guard) -> Result<(), Violation> {
        let FrameState::Payload {
            left,
            mask,
            position,
            of,
        } = &mut self.at
        else {
            return Ok(());
        };
        let (start, first) = (self.bytes.len(), *position);
        *left -= piece.len() as u64;
        *position = (first + piece.len()) % mask.len();
        let (of, is_over, mask) = (*of, *left == 0, *mask);
        let masks = mask.iter().cycle().skip(first);
        match &mut self.message {
            Message::Begins { beginning, places } if of != Part::Control => {
                self.bytes.extend(piece);
                for ((n, byte), mask) in piece
                    .iter()
                    .enumerate()
                    .zip(masks)
                    .take(MAX_BEGINNING - beginning.len())
                {
                    beginning.push(byte ^ mask);
                    places.push((start + n, *mask));
                }
                let is_whole = is_over && of == (Part::Message { is_last: true });
                self.decide(is_whole, guard)?;
                if matches!(self.message, Message::Hidden) {
                    self.hide(start, piece.len(), mask, first);
                }
            }
            Message::Hidden if of != Part::Control => {
                self.bytes.extend(piece);
                self.hide(start, piece.len(), mask, first);
            }
            _ => self.bytes.extend(piece),
        }
        if is_over {
            self.end_frame(of, guard)
        } else {
            Ok(())
        }
    }

    fn end_frame(&mut self, of: Part, guard: &Guard) -> Result<(), Violation> {
        self.at = FrameState::default();
        if of == (Part::Message { is_last: true }) {
            self.decide(true, guard)?;
            self.message = Message::Between;
        }
        Ok(())
    }

    /// Decides what to do with the message as soon as its beginning shows its type.
    fn decide(&mut self, is_whole: bool, guard: &Guard) -> Result<(), Violation> {
        let Message::Begins { beginning, places } = &self.message else {
            return Ok(());
        };
        let Some(packet) = sort(beginning, is_whole) else {
            return Ok(());
        };
        let mut write = |n: usize, text: u8| {
            let (place, mask): (usize, u8) = places[n];
            self.bytes[place] = text ^ mask;
        };
        let next = match guard.packet(packet)? {
            Verdict::Pass => Message::Passes,
            Verdict::Plain { announced } => {
                // Replaces the attachment count with zeros, which become leading zeros of the
                // acknowledgement id. Without such an id they form one that the client has not
                // requested.
                write(1, b'2');
                (2..2 + announced).for_each(|n| write(n, b'0'));
                Message::Passes
            }
            Verdict::Drop => {
                (0..beginning.len()).for_each(|n| write(n, PONG));
                Message::Hidden
            }
        };
        self.message = next;
        Ok(())
    }

    /// Overwrites a piece of the payload.
    fn hide(&mut self, start: usize, length: usize, mask: [u8; 4], first: usize) {
        let masks = mask.iter().cycle().skip(first);
        self.bytes[start..start + length]
            .iter_mut()
            .zip(masks)
            .for_each(|(byte, mask)| *byte = PONG ^ mask);
    }

    /// Passes all bytes on, unless a frame header is incomplete or the type of a message is not
    /// known yet.
    fn pass(&mut self) {
        let is_head = matches!(self.at, FrameState::Head { length: 1.., .. });
        if !is_head && !matches!(self.message, Message::Begins { .. }) {
            self.passed = self.bytes.len();
        }
    }
}

/// Returns the length of a frame header, given its second byte.
fn head_length(second: u8) -> usize {
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & MASKED == 0 { 0 } else { 4 }
}

fn length_and_mask(head: &[u8; 14]) -> (u64, [u8; 4]) {
    let (length, behind) = match head[1] & !MASKED {
        126 => (u64::from(u16::from_be_bytes([head[2], head[3]])), 4),
        127 => (
            head[2..10]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
            10,
        ),
        short => (u64::from(short), 2),
    };
    let masked = head[1] & MASKED != 0;
    let mask = if masked {
        [
            head[behind],
            head[behind + 1],
            head[behind + 2],
            head[behind + 3],
        ]
    } else {
        [0; 4]
    };
    (length, mask)
}
