//! Separate timeouts for idle connections and for reading a request head. hyper has a single
//! timeout for both.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// The timeouts of a connection.
#[derive(Clone, Copy)]
pub struct Timeouts {
    /// From the end of a response, or the start of the connection, to the first byte of a request.
    pub keep_alive: Duration,
    /// From the first byte of a request to the end of its head.
    pub head: Duration,
}

/// The state of a connection.
#[derive(Clone, Copy)]
enum Phase {
    /// Waiting for a request, since this time.
    Idle(Instant),
    /// Reading the head of a request, since this time.
    Head(Instant),
    /// Processing a request. Other limits apply.
    Busy,
    /// The connection is a websocket. No timeout of this module applies.
    Upgraded,
}

/// The state of a connection, shared by its stream, its requests and its response bodies.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<Phase>>);

impl Activity {
    /// Returns the state of a new connection.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Idle(Instant::now()))))
    }

    /// Marks the start of a request. The request ends when the guard is dropped.
    pub fn begin(&self) -> InFlight {
        *self.phase() = Phase::Busy;
        InFlight(self.clone())
    }

    /// Marks the connection as a websocket.
    pub fn upgrade(&self) {
        *self.phase() = Phase::Upgraded;
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock()
    }
}

/// Guard of a request in progress.
pub struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut phase = self.0.phase();
        if matches!(*phase, Phase::Busy) {
            *phase = Phase::Idle(Instant::now());
        }
    }
}

/// A response body that keeps its request in progress until the body has been sent.
pub struct Answering<B> {
    body: B,
    _request: InFlight,
}

impl<B> Answering<B> {
    /// Wraps a body.
    pub fn new(body: B, request: InFlight) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports end of file to its reader once a timeout has passed.
pub struct Timed<S> {
    stream: S,
    timeouts: Timeouts,
    activity: Activity,
    timer: Pin<Box<Sleep>>,
    has_ended: bool,
}

impl<S: Pending> Timed<S> {
    /// Wraps a stream with these timeouts.
    pub fn new(stream: S, timeouts: Timeouts, activity: Activity) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + timeouts.keep_alive));
        Self {
            stream,
            timeouts,
            activity,
            timer,
            has_ended: false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match *self.activity.phase() {
            Phase::Idle(since) => Some(since + self.timeouts.keep_alive),
            Phase::Head(since) => Some(since + self.timeouts.head),
            Phase::Busy | Phase::Upgraded => None,
        }
    }

    /// Records that bytes of a request have arrived.
    fn has_begun(&self) {
        let mut phase = self.activity.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// Returns whether the current timeout has passed. If not, the task is woken when it may have.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(*self.activity.phase(), Phase::Upgraded) {
            return false;
        }
        loop {
            let deadline = self.deadline();
            // The timer also runs while a request is in progress: hyper may not read again between
            // its end and the next request.
            let wake = deadline.unwrap_or_else(|| Instant::now() + self.timeouts.keep_alive);
            // A timer that fires early enough is not reset: the deadline changes with every
            // request, and is hardly ever reached.
            if self.timer.deadline() > wake {
                self.timer.as_mut().reset(wake);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                self.timer.as_mut().reset(wake);
            } else if matches!(*self.activity.phase(), Phase::Idle(_))
                && self.stream.has_pending_bytes()
            {
                // The bytes arrived after the last read, and the runtime has not reported them yet.
                // Closing the connection now would lose a request.
                self.has_begun();
            } else {
                return true;
            }
        }
    }

    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            // The end of a large response is still being written when its body has been dropped, so
            // each write restarts the idle time.
            let mut phase = self.activity.phase();
            if let Phase::Idle(since) = &mut *phase {
                *since = Instant::now();
            }
        }
        written
    }
}

/// A stream that can report whether bytes are available, without waiting and without reading them.
pub trait Pending {
    /// Whether bytes are available.
    fn has_pending_bytes(&self) -> bool;
}

impl Pending for TcpStream {
    fn has_pending_bytes(&self) -> bool {
        // Queries the operating system; the runtime only knows the last readiness event.
        SockRef::from(self)
            .peek(&mut [MaybeUninit::uninit()])
            .is_ok_and(|bytes| bytes > 0)
    }
}

impl<S: AsyncRead + Pending + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() > before {
                self.has_begun();
            }
            return polled;
        }
        if self.poll_expired(cx) {
            self.has_ended = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Pending + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        keep_alive: Duration::from_millis(20),
        head: Duration::from_millis(30),
    };

    /// Half of a pipe, and whether the operating system has bytes that the runtime does not know of
    /// yet.
    struct Half(DuplexStream, bool);

    impl Pending for Half {
        fn has_pending_bytes(&self) -> bool {
            self.1
        }
    }

    impl AsyncRead for Half {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    fn timed(pending: bool) -> (Timed<Half>, Activity, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let activity = Activity::new();
        (
            Timed::new(Half(ours, pending), TIMEOUTS, activity.clone()),
            activity,
            theirs,
        )
    }

    #[tokio::test]
    async fn a_silent_connection_ends_after_the_time_between_requests() {
        let start = Instant::now();
        let (mut stream, activity, _theirs) = timed(false);
        drop(activity.begin());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert!(start.elapsed() >= TIMEOUTS.keep_alive);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it stays ended");
    }

    #[tokio::test]
    async fn a_connection_ends_that_was_last_read_while_a_request_was_answered() {
        let (mut stream, activity, _theirs) = timed(false);
        let request = activity.begin();
        let reading = tokio::spawn(async move { stream.read(&mut [0]).await });
        // Polls the read once; afterwards it is polled only when woken.
        tokio::task::yield_now().await;
        drop(request);
        assert_eq!(reading.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn the_time_for_a_head_begins_with_its_first_byte() {
        let (mut stream, _, mut theirs) = timed(false);
        theirs.write_all(b"GET").await.unwrap();
        let before = Instant::now();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 3);
        let deadline = stream.deadline();
        assert!(deadline >= Some(before + TIMEOUTS.head));
        theirs.write_all(b" /").await.unwrap();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 2);
        assert_eq!(stream.deadline(), deadline, "more bytes give no more time");
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(before.elapsed() >= TIMEOUTS.head);
    }

    #[tokio::test]
    async fn what_has_come_in_at_the_last_moment_is_waited_for() {
        let start = Instant::now();
        let (mut stream, _, _theirs) = timed(true);
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
        assert!(
            start.elapsed() >= TIMEOUTS.keep_alive + TIMEOUTS.head,
            "as for a head"
        );
    }

    #[tokio::test]
    async fn neither_an_answer_under_way_nor_a_websocket_has_a_limit() {
        let (stream, activity, _theirs) = timed(false);
        let request = activity.begin();
        assert_eq!(stream.deadline(), None);
        let before = Instant::now();
        drop(request);
        assert!(
            stream.deadline() >= Some(before + TIMEOUTS.keep_alive),
            "counted from the end of the answer"
        );
        let request = activity.begin();
        activity.upgrade();
        drop(request);
        assert_eq!(stream.deadline(), None);
    }
}
