#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
use crate::api::duration::Span;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn check(http: Option<(&str, i32)>, tcp: Option<&str>) -> HealthCheck {
    HealthCheck {
        name: "c".into(),
        http: http.map(|(url, expect_status)| HttpCheck { url: url.into(), expect_status }),
        tcp: tcp.map(|address| TcpCheck { address: address.into() }),
        period: Span::secs(1),
        timeout: Span::from(Duration::from_millis(800)),
        failure_threshold: 1,
        success_threshold: 1,
    }
}

async fn probe(check: &HealthCheck) -> ProbeResult {
    Prober::new(check).probe().await
}

/// Answers every connection with `answer`, then closes it, or hangs if `hang`.
async fn server(answer: String, hang: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0_u8; 2048];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            if hang {
                held.push(stream);
            }
        }
    });
    address
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

#[tokio::test]
async fn http_by_status() {
    let address = server(response("200 OK", "", "well"), false).await;
    let url = format!("http://{address}/healthz");
    assert_eq!(probe(&check(Some((&url, 200)), None)).await, ProbeResult::Ok);
    let result = probe(&check(Some((&url, 204)), None)).await;
    assert_eq!(result, ProbeResult::Failed("status 200, expected 204".into()));
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/");
    for c in [check(Some((&url, 200)), None), check(None, Some(&address.to_string()))] {
        let ProbeResult::Failed(why) = probe(&c).await else { panic!("a refused connection is a failure") };
        assert!(why.contains("refused"), "{why}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_left_and_one_that_hangs_is_sick() {
    let headers = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
    let address = server(format!("{headers}{}", "x".repeat(MAX_BODY + 4096)), true).await;
    let url = format!("http://{address}/");
    assert_eq!(probe(&check(Some((&url, 200)), None)).await, ProbeResult::Ok);
    let address = server(headers.to_owned(), true).await;
    let url = format!("http://{address}/");
    let result = probe(&check(Some((&url, 200)), None)).await;
    assert_eq!(result, ProbeResult::Failed("no answer within 800 ms".into()));
}

#[tokio::test]
async fn redirects_are_bounded() {
    let end = server(response("200 OK", "", ""), false).await;
    let once = server(response("302 Found", &format!("location: http://{end}/\r\n"), ""), false).await;
    assert_eq!(probe(&check(Some((&format!("http://{once}/"), 200)), None)).await, ProbeResult::Ok);
    let round = server(response("302 Found", "location: /again\r\n", ""), false).await;
    let result = probe(&check(Some((&format!("http://{round}/"), 200)), None)).await;
    let ProbeResult::Failed(why) = result else { panic!("{result:?}") };
    assert!(why.contains("redirect"), "{why}");
}

#[tokio::test]
async fn a_certificate_by_nobody_known_says_nothing_about_home() {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let result = probe(&check(Some((&url, 200)), None)).await;
    let ProbeResult::Unknown(why) = result else { panic!("{result:?}") };
    assert!(why.contains("SSL_CERT_FILE"), "{why}");
}

#[tokio::test]
async fn tcp_by_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(probe(&check(None, Some(&address))).await, ProbeResult::Ok);
}

#[tokio::test]
async fn a_policy_that_cannot_be_tried_says_nothing_about_home() {
    for c in [
        check(None, None),
        check(None, Some("nowhere")),
        check(None, Some("127.0.0.1:0")),
        check(None, Some("127.0.0.1:99999")),
        check(None, Some("::1:80")),
        check(Some(("http://", 200)), None),
        check(Some(("ftp://127.0.0.1/", 200)), None),
        check(Some(("http://127.0.0.1/", 200)), Some("127.0.0.1:80")),
    ] {
        let result = probe(&c).await;
        assert!(matches!(result, ProbeResult::Unknown(_)), "{c:?}: {result:?}");
    }
}
