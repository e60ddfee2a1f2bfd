use super::*;

#[test]
fn secrets_are_masked_and_the_rest_is_shown() {
    for (url, shown) in [
        ("sqlite:data/causerie.db", "sqlite:data/causerie.db"),
        ("sqlite:/data/x:y@z.db", "sqlite:/data/x:y@z.db"),
        (
            "mongodb://localhost:27017/chat",
            "mongodb://localhost:27017/chat",
        ),
        (
            "mongodb://a:1,b:2,[::1]:3,[fe80::1]/chat?replicaSet=rs0&w=1",
            "mongodb://a:1,b:2,[::1]:3,[fe80::1]/chat?replicaSet=rs0&w=1",
        ),
        (
            "mongodb://me:hush@db.example/chat",
            "mongodb://me:********@db.example/chat",
        ),
        (
            "mongodb+srv://me:hush@db.example/?tls=true",
            "mongodb+srv://me:********@db.example/?tls=true",
        ),
        (
            "mongodb://me@db.example/chat?authSource=%24external",
            "mongodb://me@db.example/chat?authSource=%24external",
        ),
        (
            "mongodb://h/chat?proxyHost=p&proxyPassword=hush&ssl=true",
            "mongodb://h/chat?proxyHost=p&proxyPassword=********&ssl=true",
        ),
        (
            "mongodb://h/?PROXYPASSWORD=hush;tlsCertificateKeyFilePassword=hush",
            "mongodb://h/?PROXYPASSWORD=********;tlsCertificateKeyFilePassword=********",
        ),
        (
            "mongodb://h?tlsCertificateKeyFile=/run/key.pem",
            "mongodb://h?tlsCertificateKeyFile=/run/key.pem",
        ),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:hush,X:y",
            "mongodb://h/?authMechanismProperties=********",
        ),
        (
            "mongodb://h/?proxyPassword=hush&proxyPassword=hush2",
            "mongodb://h/?proxyPassword=********&proxyPassword=********",
        ),
        ("postgres://me:hush@db/x", "postgres://me:********@db/x"),
    ] {
        assert_eq!(masked_url(url), shown);
    }
}

#[test]
fn a_url_that_is_not_well_formed_shows_no_secret() {
    for url in [
        "mongodb://me:hush",
        "mongodb://me:hush/chat",
        "mongodb://me:hush?w=1",
        "mongodb://me:hu/hush@h/chat",
        "mongodb://me:hu?hush@h/chat",
        "mongodb://me:x@hush/hush@h/chat",
        "mongodb://me:x@hush?hush@h/chat",
        "mongodb://me:x#hush@h/chat",
        "mongodb://me:x@hush@h/chat",
        "mongodb://u:hush@h1,v:hush@h2/chat",
        "mongodb://me:%68ush:hush@h/chat",
        "mongodb://h/chat?authMechanismProperties=AWS_SESSION_TOKEN:x@hush",
        "mongodb://me:x@h/chat?proxyPassword=x@hush",
        "mongodb://h/chat?%70roxyPassword=hush",
        "mongodb://h/chat?myPassword=hush&x_token=hush&apiKey=hush&secret=hush&whatever=hush",
        "mongodb://h/chat?proxyPassword:hush",
        "mongodb://h/chat?appName=x proxyPassword=hush",
        "mongodb://h/chat?appName=x?proxyPassword=hush",
        "mongodb://h/chat?replicaSet:rs0,proxyPassword:hush=1",
        "mongodb://h/chat&proxyPassword=hush",
        "mongodb://h&proxyPassword=hush/chat",
        "mongodb://h/proxyPassword=hush",
        "mongodb://mongodb://me:hush@h/chat",
        "mongodb:/me:hush@h/chat",
        "mongodb:me:hush@h/chat",
        "mongodb//me:hush@h/chat",
        "me:hush@h/chat",
        "hush@h",
        "sqlite:mongodb://me:hush@h/chat",
        "SQLite:x.db?key=hush",
        "mongo db://me:hush@h",
    ] {
        let shown = masked_url(url);
        assert!(
            !shown.contains("hush") && shown.contains(MASK),
            "{url}: {shown}"
        );
    }
}

#[test]
fn an_error_of_the_driver_quotes_no_secret() {
    let url = DatabaseUrl("mongodb://me:p%61ss@h/chat?authMechanismProperties=AWS_SESSION_TOKEN=HUSH%2Fhash&w=1&xyzzy".into());
    for quoted in [
        "p%61ss",
        "pass",
        "AWS_SESSION_TOKEN=HUSH/hash",
        "HUSH%2Fhash",
        "HUSH",
        "hush",
        "hash",
        "xyzzy",
    ] {
        let masked = url.mask_in(&format!("cannot read \"{quoted}\" of chat"));
        assert!(
            !masked.contains(quoted)
                && masked.starts_with("cannot read ")
                && masked.ends_with(" of chat"),
            "{masked}"
        );
    }
}
