//! Default limits and times of the data plane, with their reasons.

use std::time::Duration;

/// A client that has not sent a whole head after this is slow on purpose or gone; nginx gives 60 s, HAProxy
/// recommends 5 to 10 s against slow-header attacks.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections cost memory; browsers reopen them for nothing. nginx closes after 75 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Between two pieces of a content, in either direction.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests in flight may take to end after SIGTERM.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Client connections of one data thread. Each costs about 20 KiB with its buffers.
pub const CONNECTIONS_MAX: usize = 20_000;
/// How long an answer waits for the position of the shard that it may have written: it is a favour to later readers.
pub const TOKEN_TIMEOUT: Duration = Duration::from_millis(50);
/// Requests with a content up to this are kept whole, so that they can be sent again to another endpoint.
pub const REPLAY_BYTES_MAX: u64 = 64 * 1024;
/// Streams that one HTTP/2 client may have open at a time (RFC 9113, section 6.5.2, recommends at least 100).
pub const STREAMS_MAX: u32 = 128;
/// Attempts for one request, the first included, over all its candidates.
pub const ATTEMPTS_MAX: u32 = 4;
/// Hops of one request through portolan gateways before it is called a loop. One hop between regions is the rule.
pub const HOPS_MAX: u32 = 3;
/// Tenants whose traffic one data thread counts apart until it is taken, which is once a second. More are counted together,
/// so that names which clients make up take no memory.
pub const USAGE_TENANTS_MAX: usize = 10_000;
/// How long a request of another region waits here for the news of a lease that its sender knows already: a generation is
/// everywhere within 200 ms, but for a node that is just busy.
pub const NEWS_WAIT: Duration = Duration::from_secs(2);
/// From one look for them to the next.
pub const NEWS_PAUSE: Duration = Duration::from_millis(20);
