//! A write timeout for connections. A client that sends requests and never reads would otherwise
//! hold the memory of the response, and of everything queued behind it, indefinitely.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{descriptors::Descriptor, sockets::BytesWritten};

/// A stream whose writes fail after nothing could be written for a while, and that counts the bytes
/// written. Reads have no timeout here; other limits apply to them.
pub struct WriteTimeout<S> {
    stream: S,
    written: BytesWritten,
    timeout: Duration,
    /// Runs while a write is pending and the client accepts no data.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Released when the stream is dropped.
    _descriptor: Option<Descriptor>,
}

impl<S> WriteTimeout<S> {
    /// Wraps a stream. Writes fail when nothing could be written for `timeout`.
    pub fn new(stream: S, written: BytesWritten, timeout: Duration) -> Self {
        Self {
            stream,
            written,
            timeout,
            stalled: None,
            _descriptor: None,
        }
    }

    /// Stores the descriptor that the stream uses.
    pub fn holding(self, descriptor: Descriptor) -> Self {
        Self {
            _descriptor: Some(descriptor),
            ..self
        }
    }

    /// Counts the bytes of a completed write and applies the timeout.
    fn counted(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written.add(*bytes);
        }
        self.with_deadline(written, cx)
    }

    /// Returns the result of a write, or an error if it was pending for too long.
    fn with_deadline<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write_timeout = self.timeout;
        ready!(
            self.stalled
                .get_or_insert_with(|| Box::pin(sleep(write_timeout)))
                .as_mut()
                .poll(cx)
        );
        // The timer is kept, so that further attempts fail with the same error.
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other end takes nothing",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.counted(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.counted(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // Flushing a socket does nothing, and succeeds whether or not the client accepted any data.
        // A success therefore does not reset the timer.
        if flushed.is_ready() {
            flushed
        } else {
            self.with_deadline(flushed, cx)
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.with_deadline(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    /// Longer than any test may take.
    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn whoever_takes_nothing_is_given_up_and_stays_so() {
        let (ours, _theirs) = duplex(16);
        let mut stream =
            WriteTimeout::new(ours, BytesWritten::default(), Duration::from_millis(20));
        for _ in 0..2 {
            let written = timeout(LONG, stream.write_all(&[0; 17]))
                .await
                .expect("it waits for ever");
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn whoever_takes_something_has_the_whole_time_again() {
        let (ours, mut theirs) = duplex(16);
        let mut stream = WriteTimeout::new(ours, BytesWritten::default(), LONG);
        stream.write_all(&[0; 16]).await.unwrap();
        assert!(stream.write_all(&[0; 16]).now_or_never().is_none());
        assert!(stream.stalled.is_some());
        theirs.read_exact(&mut [0; 16]).await.unwrap();
        stream.write_all(&[0; 16]).await.unwrap();
        assert!(stream.stalled.is_none());
    }
}
