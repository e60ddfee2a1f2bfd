//! Limits log lines that clients can cause at will: for each kind and address one line is logged at
//! once, and a second later the number of further ones.

use std::{collections::HashMap, net::IpAddr, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::address::ClientAddress;

/// How long lines of one kind and address are only counted after the first.
const INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of pairs of address and kind that are logged in that time; all others are
/// counted together.
const MAX_ADDRESSES: usize = 100;

/// The address, or `None` for those beyond [`MAX_ADDRESSES`], and the kind of line.
type Key = (Option<IpAddr>, &'static str);

/// Static, because there is one log per process.
static COUNTS: LazyLock<Mutex<HashMap<Key, u64>>> = LazyLock::new(Mutex::default);

/// Returns whether to log this line. Otherwise it is counted as one more of `what`, which must be
/// in the plural.
#[must_use]
pub fn is_first(address: ClientAddress, what: &'static str) -> bool {
    let mut counts = COUNTS.lock();
    let own = (Some(address.network()), what);
    if let Some(count) = counts.get_mut(&own) {
        *count += 1;
        return false;
    }
    let is_one_of_few = counts.len() < MAX_ADDRESSES;
    let key = if is_one_of_few { own } else { (None, what) };
    if let Some(count) = counts.get_mut(&key) {
        *count += 1;
        return false;
    }
    // Without a runtime the count cannot be logged later, so every line is logged.
    let Ok(runtime) = Handle::try_current() else {
        return true;
    };
    counts.insert(key, u64::from(!is_one_of_few));
    drop(counts);
    runtime.spawn(async move {
        tokio::time::sleep(INTERVAL).await;
        match (counts_of(key), key.0) {
            (0, _) => {}
            (more, Some(network)) => tracing::warn!(%network, more, "{what}: {more} more from this address in one second"),
            (more, None) => tracing::warn!(more, "{what}: {more} more from other addresses in one second"),
        }
    });
    is_one_of_few
}

fn counts_of(key: Key) -> u64 {
    COUNTS.lock().remove(&key).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> ClientAddress {
        IpAddr::from(std::net::Ipv4Addr::from_bits(n)).into()
    }

    #[tokio::test]
    async fn the_first_of_an_address_is_logged_and_the_others_are_counted_and_few_addresses_are_told_apart()
     {
        const WHAT: &str = "tests of one address";
        assert!(is_first(address(1), WHAT));
        assert!((0..50_000).all(|_| !is_first(address(1), WHAT)));
        assert!(is_first(address(1), "others of one address"));
        assert!(is_first(address(2), WHAT));
        assert_eq!(counts_of((Some(address(1).network()), WHAT)), 50_000);
        assert!(is_first(address(1), WHAT), "a second later");
        let logged = (1_000..11_000)
            .filter(|n| is_first(address(*n), WHAT))
            .count();
        assert!(logged < MAX_ADDRESSES, "{logged}");
        assert_eq!(counts_of((None, WHAT)), 10_000 - logged as u64);
    }
}
