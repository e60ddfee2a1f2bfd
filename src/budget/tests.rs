use super::*;

const KIB: u64 = 1024;

fn budget(mode: AccessMode) -> Arc<MemoryBudget> {
    MemoryBudget::new(
        &MemoryConfig {
            process_bytes: 300 * KIB,
            address_bytes: 200 * KIB,
            user_bytes: 100 * KIB,
        },
        mode,
    )
}

fn begin(budget: &Arc<MemoryBudget>, address: &str) -> Reservation {
    budget.begin(address.parse::<IpAddr>().unwrap().into())
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

#[tokio::test(start_paused = true)]
async fn each_scope_has_a_budget_of_its_own() {
    let budget = budget(AccessMode::Secure);
    let [first, second, third] =
        ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|address| begin(&budget, address));
    first.take_for_address(150 * KIB).await.unwrap();
    assert!(matches!(
        second.take_for_address(51 * KIB).await,
        Err(Error::RateLimited(_))
    ));
    third.take_for_address(150 * KIB).await.unwrap();
    assert!(matches!(
        begin(&budget, "192.0.2.3").take_for_address(1).await,
        Err(Error::OutOfMemory)
    ));
    drop((first, second, third));
    let [first, second] = ["192.0.2.1", "192.0.2.1"].map(|address| begin(&budget, address));
    first.take_for_user(user(1), 60 * KIB).await.unwrap();
    assert!(matches!(
        second.take_for_user(user(1), 41 * KIB).await,
        Err(Error::RateLimited(_))
    ));
    second.take_for_user(user(2), 41 * KIB).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_a_budget_gets_all_of_it() {
    let budget = budget(AccessMode::Secure);
    let [first, second] = ["192.0.2.1", "192.0.2.1"].map(|address| begin(&budget, address));
    first.take_for_user(user(1), 1_000 * KIB).await.unwrap();
    assert!(second.take_for_user(user(1), 1).await.is_err());
    first.set_unread(0, &CancellationToken::new());
    second.take_for_user(user(1), 1_000 * KIB).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_oldest_unread_answer_of_the_same_scope_goes_first() {
    let budget = budget(AccessMode::Secure);
    let mut unread = Vec::new();
    for (address, n) in [("192.0.2.2", 1), ("192.0.2.1", 2), ("192.0.2.1", 3)] {
        let (reservation, connection) = (begin(&budget, address), CancellationToken::new());
        reservation.take_for_user(user(n), 90 * KIB).await.unwrap();
        reservation.set_unread(90 * KIB, &connection);
        unread.push((reservation, connection));
    }
    let connections: Vec<_> = unread
        .iter()
        .map(|(_, connection)| connection.clone())
        .collect();
    for (reservation, connection) in unread {
        tokio::spawn(async move {
            connection.cancelled().await;
            drop(reservation);
        });
    }
    // The address budget is full, so the older connection of the same address is closed.
    begin(&budget, "192.0.2.1")
        .take_for_address(30 * KIB)
        .await
        .unwrap();
    assert_eq!(
        connections
            .iter()
            .map(CancellationToken::is_cancelled)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_client_takes_and_gives_back_without_waiting() {
    let budget = budget(AccessMode::Secure);
    let address: ClientAddress = "192.0.2.1".parse::<IpAddr>().unwrap().into();
    let waiting = budget.wait_for(address, Some(user(1)));
    let answer = budget.begin(address);
    answer.take_for_user(user(1), 80 * KIB).await.unwrap();
    waiting.merge(&answer);
    assert!(
        waiting.resize(90 * KIB),
        "what the answer had taken is its own now"
    );
    let connection = CancellationToken::new();
    waiting.set_unread(90 * KIB, &connection);
    let other = budget.wait_for(address, Some(user(1)));
    assert!(!other.resize(20 * KIB));
    tokio::time::advance(MIN_UNREAD).await;
    assert!(!other.resize(20 * KIB));
    assert!(connection.is_cancelled(), "the oldest goes first");
    assert!(waiting.resize(10 * KIB));
    assert!(other.resize(20 * KIB));
    assert!(other.resize(90 * KIB));
    drop((waiting, answer, other));
    budget
        .begin(address)
        .take_for_user(user(1), 100 * KIB)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_open_mode_the_process_alone_has_a_budget() {
    let budget = budget(AccessMode::Open);
    let held = begin(&budget, "192.0.2.1");
    held.take_for_user(user(1), 300 * KIB).await.unwrap();
    assert!(matches!(
        begin(&budget, "192.0.2.1").take_for_address(1).await,
        Err(Error::OutOfMemory)
    ));
}
