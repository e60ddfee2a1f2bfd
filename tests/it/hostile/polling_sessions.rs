//! HTTP polling: requests without a session or in the wrong order.

use futures_util::future::join_all;
use reqwest::Method;

use crate::support::{
    databases::Kind,
    harness::PATIENCE,
    loaded_server::LoadedServer,
    raw::{Connection, TEXT, WEBSOCKET, frame},
};

/// Paths and queries, after `/socket.io`, that name no session and begin none.
const WRONG_QUERIES: [&str; 19] = [
    "",
    "?",
    "?EIO=4",
    "?transport=polling",
    "?EIO=&transport=",
    "?EIO&transport",
    "?EIO=99&transport=polling",
    "?EIO=-4&transport=polling",
    "?EIO=4&transport=carrier-pigeon",
    "?EIO=4&transport=polling&sid=",
    "?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAHs",
    "?EIO=4&transport=polling&sid=%00",
    "?EIO=4&transport=websocket",
    "?EIO=3&transport=websocket&sid=x",
    "?EIO=2&transport=polling",
    "?EIO=4;transport=polling",
    "?eio=4&TRANSPORT=polling",
    "/nowhere?x",
    "/?EIO=4&transport=polling&sid=../../users",
];

#[tokio::test]
async fn requests_without_a_session_are_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    let sid = session.path.rsplit('=').next().unwrap();
    let mut queries = WRONG_QUERIES.map(str::to_owned).to_vec();
    queries.push(format!("?EIO=4&transport=carrier-pigeon&sid={sid}"));
    queries.push(format!("?EIO=4&transport=websocket&sid={sid}"));
    queries.push(format!("?EIO=99&transport=polling&sid={sid}"));
    queries.push(format!(
        "?EIO=4&transport=polling&sid={}",
        sid.repeat(3_000)
    ));
    for query in &queries {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "BREW"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (status, answer) = loaded
                .polls(
                    method.clone(),
                    &format!("/socket.io{query}"),
                    "text/plain",
                    "1:2",
                )
                .await;
            assert_eq!(status, 400, "{method} {query:.100}: {answer}");
        }
    }
    assert_eq!(
        session.sends("text/plain", "40").await,
        200,
        "the session is as it was"
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_session_is_only_read_by_get_and_written_by_post() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD] {
        assert_eq!(
            loaded
                .polls(method, &session.path, "text/plain", "2")
                .await
                .0,
            400
        );
    }
    assert_eq!(
        session.sends("text/plain", "40").await,
        200,
        "the session is as it was"
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_path_that_only_begins_like_that_of_sockets_is_unknown() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    assert_eq!(
        loaded
            .polls(
                Method::GET,
                "/socket.iox/?EIO=4&transport=polling",
                "text/plain",
                ""
            )
            .await
            .0,
        404
    );
    loaded.ends_well().await;
}

#[tokio::test]
async fn two_polls_at_once_end_the_session() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for version in [3, 4] {
        let session = loaded.session(version).await;
        // One poll takes the queued packets, so that the next poll waits.
        let (first, second, third) =
            tokio::join!(session.hears(), session.hears(), session.hears());
        let mut statuses = [first.0, second.0, third.0];
        statuses.sort_unstable();
        assert!(statuses.ends_with(&[400]), "{statuses:?}");
        assert_eq!(session.pings().await, 400);
    }
    loaded.ends_well().await;
}

#[tokio::test]
async fn an_upgrade_in_the_wrong_order_ends_only_its_session() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let text = |packets: &[&str]| {
        packets
            .iter()
            .flat_map(|packet| frame(TEXT, packet.as_bytes()))
            .collect::<Vec<_>>()
    };
    let orders = [
        text(&["5"]),
        text(&["2"]),
        text(&["3probe"]),
        text(&["40"]),
        text(&[""]),
        text(&["é"]),
        text(&["2probe", "2probe"]),
        text(&["2probe", "40"]),
        text(&["2probe", "5", "5"]),
        text(&["2probe", "5", "2probe"]),
        frame(0x82, b"2probe"),
        frame(0x88, b""),
        frame(TEXT, "x".repeat(100_001).as_bytes()),
        [text(&["2probe"]), frame(0x88, b"")].concat(),
        [text(&["2probe"]), frame(0x82, b"5")].concat(),
        Vec::new(),
    ];
    for version in [3, 4] {
        for order in &orders {
            let session = loaded.session(version).await;
            let mut websocket = Connection::websocket(&loaded.base, &session.as_websocket()).await;
            websocket.send(order).await;
            websocket.finish().await;
            while websocket.frame().await.is_some() {}
            // The connection closes a moment before the session ends.
            let gone = async { while session.pings().await == 200 {} };
            tokio::time::timeout(PATIENCE, gone)
                .await
                .unwrap_or_else(|_| panic!("the session goes on after {}", order.escape_ascii()));
        }
    }
    let nobodys = format!("{WEBSOCKET}&sid=AAAAAAAAAAAAAAHs");
    let mut connection = Connection::open(&loaded.base).await;
    connection.asks_for_websocket(&nobodys).await;
    assert_eq!(connection.reply("GET").await.unwrap().status, 400);
    loaded.ends_well().await;
}

#[tokio::test]
async fn a_second_websocket_for_a_session_is_refused() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let session = loaded.session(4).await;
    let mut websocket = Connection::websocket(&loaded.base, &session.as_websocket()).await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let refused = async || {
        let mut second = Connection::open(&loaded.base).await;
        second
            .send(
                format!(
                    "GET {} HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n",
                    session.as_websocket()
                )
                .as_bytes(),
            )
            .await;
        assert_eq!(second.reply("GET").await.unwrap().status, 400);
    };
    // While the first websocket is silent, when the upgrade is complete, and many at once.
    refused().await;
    websocket
        .send(
            &[
                frame(TEXT, b"2probe"),
                frame(TEXT, b"5"),
                frame(TEXT, b"40"),
            ]
            .concat(),
        )
        .await;
    websocket.hears("3probe").await;
    websocket.hears("40{").await;
    join_all((0..20).map(|_| refused())).await;
    assert_eq!(session.hears().await.0, 400);
    assert_eq!(session.sends("text/plain", "41").await, 400);
    websocket.send(&frame(TEXT, b"421[\"identity\",5]")).await;
    websocket.hears("431[").await;
    loaded.ends_well().await;
}

#[tokio::test]
async fn requests_that_resemble_an_upgrade_are_survived() {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    for head in [
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: x\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.0\r\nsec-websocket-key: x\r\nupgrade: websocket\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: \x7f\u{ff}\r\nupgrade: tls\r\nconnection: upgrade\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-version: 99\r\nsec-websocket-key: x\r\nupgrade: x\r\n\r\n",
        "POST /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nsec-websocket-key: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let mut connection = Connection::open(&loaded.base).await;
        connection.send(head.as_bytes()).await;
        connection.finish().await;
        if let Some(reply) = connection.reply("GET").await {
            assert!(reply.status < 500, "{head}: {reply:?}");
        }
    }
    loaded.ends_well().await;
}
