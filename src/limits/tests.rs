use std::collections::HashMap;

use governor::clock::FakeRelativeClock;
use uuid::Uuid;

use super::*;
use crate::config::Config;

/// Returns the seconds to wait from a rate limit error.
#[track_caller]
fn refused<T>(outcome: Result<T>) -> f64 {
    match outcome {
        Err(Error::RateLimited(wait)) => wait.as_secs_f64(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was allowed"),
    }
}

fn address(text: &str) -> ClientAddress {
    text.parse::<IpAddr>().unwrap().into()
}

fn config(number: u32) -> LimitsConfig {
    let mut limits = Config::load(None, &HashMap::new()).unwrap().limits;
    limits.logins_per_minute = number;
    limits.posts_per_minute = number;
    limits.sockets_per_address = number;
    limits
}

#[test]
fn what_a_minute_allows_may_come_at_once_and_then_bit_by_bit() {
    let clock = FakeRelativeClock::default();
    let rate = Rate::new(NonZeroU32::new(60).unwrap(), clock.clone());
    (0..60).for_each(|_| rate.check("alice").unwrap());
    assert!((refused(rate.check("alice")) - 1.0).abs() < 1e-6);
    rate.check("bob").unwrap();
    clock.advance(Duration::from_millis(600));
    assert!((refused(rate.check("alice")) - 0.4).abs() < 1e-6);
    clock.advance(Duration::from_millis(401));
    rate.check("alice").unwrap();
    refused(rate.check("alice"));
    clock.advance(MINUTE);
    (0..60).for_each(|_| rate.check("alice").unwrap());
    refused(rate.check("alice"));
}

#[test]
fn many_at_once_are_taken_one_by_one_and_more_than_fit_take_all() {
    let clock = FakeRelativeClock::default();
    let rate = Rate::new(NonZeroU32::new(60).unwrap(), clock.clone());
    let many = |count| rate.check_many("alice", NonZeroU32::new(count).unwrap());
    many(59).unwrap();
    assert!((refused(many(2)) - 1.0).abs() < 1e-6);
    many(1).unwrap();
    assert!(refused(many(1_000)) > 59.0);
    clock.advance(MINUTE);
    many(1_000).unwrap();
    refused(many(1));
}

#[test]
fn of_too_many_buckets_those_in_use_are_kept() {
    let rate = Rate::new(NonZeroU32::MIN, FakeRelativeClock::default());
    for stranger in 0..3 * BUCKETS {
        rate.check(stranger).unwrap();
        refused(rate.check(stranger));
        if stranger % 1_000 == 0 {
            rate.buckets.run_pending_tasks();
        }
    }
    rate.buckets.run_pending_tasks();
    assert!(rate.buckets.entry_count() <= BUCKETS);
    refused(rate.check(3 * BUCKETS - 1));
}

#[test]
fn one_network_is_limited_and_not_its_neighbours() {
    let limits = Limits::new(&config(2), AccessMode::Secure, WallClock::system());
    limits.login(address("2001:db8::1")).unwrap();
    limits.login(address("2001:db8::2")).unwrap();
    assert!(refused(limits.login(address("2001:db8::3"))) > 29.0);
    limits.login(address("2001:db8:0:1::3")).unwrap();
    limits.registration(address("2001:db8::3")).unwrap();
    let [alice, bob] = [1, 2].map(|n| UserId::from(Uuid::from_u128(n)));
    limits.post(alice).unwrap();
    limits.post(alice).unwrap();
    refused(limits.post(alice));
    limits.post(bob).unwrap();
}

#[test]
fn a_place_is_free_again_when_its_socket_is_gone() {
    let limits = Limits::new(&config(2), AccessMode::Secure, WallClock::system());
    let (first, second) = (
        limits.socket(address("192.0.2.1")).unwrap(),
        limits.socket(address("192.0.2.1")).unwrap(),
    );
    refused(limits.socket(address("192.0.2.1")));
    let elsewhere = limits.socket(address("192.0.2.2")).unwrap();
    let clone = first.clone();
    drop(first);
    refused(limits.socket(address("192.0.2.1")));
    drop(clone);
    let third = limits.socket(address("192.0.2.1")).unwrap();
    drop([second, third, elsewhere]);
    assert!(limits.sockets.0.unwrap().taken.lock().is_empty());
}

#[test]
fn open_mode_and_a_limit_of_0_limit_nothing() {
    for limits in [
        Limits::new(&config(1), AccessMode::Open, WallClock::system()),
        Limits::new(&config(0), AccessMode::Secure, WallClock::system()),
    ] {
        let user = UserId::from(Uuid::from_u128(1));
        let places: Vec<_> = (0..10)
            .map(|_| limits.socket(address("192.0.2.1")).unwrap())
            .collect();
        for _ in places {
            limits.login(address("192.0.2.1")).unwrap();
            limits.post(user).unwrap();
        }
    }
}
