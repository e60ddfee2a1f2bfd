//! Limits on what a client may send on its connection, before and after its socket is connected, in
//! bytes and packets.

use super::packets::Packet;

/// Maximum number of bytes and packets that a client may send while it has no connected socket. A
/// token may take several thousand bytes.
const UNCONNECTED_BYTES: usize = 8 * 1024;
const UNCONNECTED_PACKETS: u32 = 16;
/// Factor by which those limits rise on a connection that had a connected socket before. Its client
/// may retry repeatedly until the server has finished with the former socket.
const RECONNECT_FACTOR: u32 = 16;
/// Maximum number of CONNECT packets that a client may send while its socket is connected.
const MAX_EXTRA_CONNECTS: u32 = 16;

/// The reason why a connection is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// The client sent more than is allowed before its socket is connected.
    #[error("too much was sent before a socket was connected")]
    Unconnected,
    /// The client sent too many CONNECT packets.
    #[error("too many CONNECT packets")]
    Connects,
    /// The client sent more packets that are not events than the event rate limit allows.
    #[error("too many packets")]
    Packets,
    /// The client sent a binary packet that was not announced, or an invalid attachment count.
    #[error("no packet of the protocol")]
    Broken,
    /// The connection is being closed.
    #[error("the connection is being closed")]
    Closed,
}

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Pass the packet to socketioxide.
    Pass,
    /// Pass the packet as an event without attachments: `announced` characters after its type hold
    /// the attachment count.
    Plain {
        /// Length of the attachment count and its separator, in characters.
        announced: usize,
    },
    /// Discard the packet.
    Drop,
}

/// Counts what a client sends on one connection, and refuses what exceeds the limits.
#[derive(Clone, Copy, Default, Debug)]
pub struct InputLimits {
    connected: bool,
    /// Whether the connection ever had a connected socket.
    was_connected: bool,
    bytes: usize,
    packets: u32,
    /// Number of announced attachments that have not arrived yet.
    attachments: u32,
}

impl InputLimits {
    /// Returns whether the connection has a connected socket.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Returns the limits from the moment at which a socket is connected.
    #[must_use]
    pub fn connected(self) -> Self {
        Self {
            connected: true,
            was_connected: true,
            bytes: 0,
            packets: 0,
            ..self
        }
    }

    /// Records that the socket has disconnected.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.packets = 0;
        self.bytes = 0;
    }

    /// Returns how many bytes the client may send at once, at most `most`.
    pub fn allowance(&self, most: usize) -> usize {
        if self.connected {
            most
        } else {
            self.most_bytes().saturating_sub(self.bytes).min(most)
        }
    }

    /// Counts `bytes` more bytes of an incoming message.
    ///
    /// Errors: [`Violation::Unconnected`] above the limit for unconnected clients.
    pub fn receives(&mut self, bytes: u64) -> Result<(), Violation> {
        if !self.connected {
            self.bytes = self
                .bytes
                .saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
            if self.bytes > self.most_bytes() {
                return Err(Violation::Unconnected);
            }
        }
        Ok(())
    }

    /// Counts a packet and returns what to do with it.
    pub fn packet(&mut self, packet: Packet) -> Result<Verdict, Violation> {
        self.count(packet)?;
        match packet {
            Packet::Transport | Packet::Connect | Packet::Event | Packet::Other => {
                Ok(Verdict::Pass)
            }
            Packet::BinaryEvent {
                attachments,
                announced,
            } => {
                self.attachments = attachments;
                Ok(Verdict::Plain { announced })
            }
            Packet::Ignored { attachments } => {
                self.attachments = attachments;
                Ok(Verdict::Drop)
            }
            Packet::Binary => {
                self.attachments = self.attachments.checked_sub(1).ok_or(Violation::Broken)?;
                Ok(Verdict::Drop)
            }
            Packet::Broken => Err(Violation::Broken),
        }
    }

    fn most_bytes(&self) -> usize {
        if self.was_connected {
            RECONNECT_FACTOR as usize * UNCONNECTED_BYTES
        } else {
            UNCONNECTED_BYTES
        }
    }

    fn count(&mut self, packet: Packet) -> Result<(), Violation> {
        if !self.connected {
            self.packets += 1;
            let most = if self.was_connected {
                RECONNECT_FACTOR * UNCONNECTED_PACKETS
            } else {
                UNCONNECTED_PACKETS
            };
            return if self.packets > most {
                Err(Violation::Unconnected)
            } else {
                Ok(())
            };
        }
        if packet == Packet::Connect {
            self.packets += 1;
            return if self.packets > MAX_EXTRA_CONNECTS {
                Err(Violation::Connects)
            } else {
                Ok(())
            };
        }
        Ok(())
    }
}
