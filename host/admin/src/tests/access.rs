//! Each role at each route; who is let in by which door.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Bench, own, tcp, tenant};
use crate::authentic::Peer;
use crate::{Bindings, MATRIX, Role, Scope, Settings};

/// Every operation of the description: method, path with its parts filled in, scope.
fn operations() -> Vec<(String, String, String)> {
    let description: Value = serde_json::to_value(crate::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope =
                operation["x-scope"].as_str().unwrap_or_else(|| panic!("{method} {path} has no scope"));
            let path = path
                .replace("{kind}", "tenant")
                .replace("{name}", "acme")
                .replace("{slot}", "tenant.acme")
                .replace("{tenant}", "acme")
                .replace("{shard}", "s1")
                .replace("{conflict}", "a1")
                .replace("{value}", "ada")
                .replace("{generation}", "1")
                .replace("{digest}", &"ab".repeat(32))
                .replace("{id}", "0123456789abcdef");
            assert!(!path.contains('{'), "fill in {path}");
            found.push((method.to_uppercase(), path, scope.to_owned()));
        }
    }
    found
}

#[tokio::test]
async fn each_role_may_at_each_route_what_the_matrix_says() {
    let bench = Bench::new(Settings::default());
    bench.twin.put("tenant", "acme", json!({}), "api");
    let mut looked = 0;
    for (role, scopes) in MATRIX {
        let token = bench.token(*role, role.is_of_tenant().then_some("acme")).await;
        for (method, path, scope) in operations() {
            let scope: Scope = scope.parse().unwrap();
            let answer = if scope == Scope::EventRead || scope == Scope::TailRead || path.ends_with("/events")
            {
                // Streams do not end by themselves.
                let request = http::Request::builder().method(&*method).uri(&*path);
                let request = request.header("authorization", &token).header("host", "localhost");
                bench.send(tcp(), request.body(axum::body::Body::empty()).unwrap()).await.status()
            } else {
                bench.with(&token, &method, &path, json!({})).await.status
            };
            let may = scopes.contains(&scope);
            let refused = answer == StatusCode::FORBIDDEN;
            // A tenant's caller is also refused what is not its own, such as removing its tenant.
            let beyond = role.is_of_tenant() && scope == Scope::ObjectWrite;
            assert!(refused != may || beyond, "{role}: {method} {path} ({scope}) answers {answer}");
            let nobody = bench.ask(tcp(), &method, &path, &[], &json!({})).await;
            assert_eq!(nobody.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert_eq!(nobody.header("www-authenticate"), "Bearer realm=\"portolan\"");
            looked += 1;
        }
    }
    assert!(looked >= Role::ALL.len() * 20, "{looked}");
}

#[test]
fn the_matrix_is_as_it_was_meant() {
    let row = |role: Role| role.scopes();
    assert_eq!(row(Role::Admin).len(), Scope::ALL.len());
    for scope in row(Role::Auditor) {
        let reads = scope.as_str().ends_with(":read") || scope == Scope::Explain;
        assert!(reads, "an auditor changes nothing: {scope}");
    }
    let writes =
        [Scope::BreakGlass, Scope::ChangeWrite, Scope::StatusRead, Scope::UsageRead, Scope::AuditRead];
    for role in [Role::TenantAdmin, Role::TenantDev] {
        assert!(writes.iter().all(|scope| !row(role).contains(scope)), "{role}");
    }
    assert!(row(Role::TenantDev).is_subset(&row(Role::TenantAdmin)));
    assert!(!row(Role::Operator).contains(&Scope::TokenWrite));
    assert_eq!(MATRIX.len(), Role::ALL.len());
}

#[tokio::test]
async fn doors_open_for_those_who_are_known() {
    let settings = Settings {
        bindings: Bindings {
            certificates: vec![
                ("uri:spiffe://ops/alice".to_owned(), Role::Operator, None),
                ("dns:ci.acme.example".to_owned(), Role::TenantDev, Some(tenant("acme"))),
            ],
            oidc: None,
        },
        ..Settings::default()
    };
    let bench = Bench::new(settings);
    let names = |names: &[&str]| Peer::Tcp {
        local: "127.0.0.1:1".parse().unwrap(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let stranger = Peer::Unix { own: false, user: "eve (uid 1001)".to_owned() };
    let cases = [
        (own(), vec![], StatusCode::OK),
        (stranger.clone(), vec![], StatusCode::UNAUTHORIZED),
        (tcp(), vec![], StatusCode::UNAUTHORIZED),
        (names(&["uri:spiffe://ops/alice"]), vec![], StatusCode::OK),
        (names(&["dns:ci.acme.example"]), vec![], StatusCode::FORBIDDEN),
        (names(&["dns:spiffe://ops/alice"]), vec![], StatusCode::UNAUTHORIZED),
        // A bad credential is not passed over for another way in.
        (own(), vec![("authorization", "Bearer ptl_0_0")], StatusCode::UNAUTHORIZED),
        (own(), vec![("authorization", "Basic cm9vdDo=")], StatusCode::UNAUTHORIZED),
        (own(), vec![("authorization", "Bearer a.b.c")], StatusCode::UNAUTHORIZED),
        (names(&["uri:spiffe://ops/alice"]), vec![("authorization", "Bearer x")], StatusCode::UNAUTHORIZED),
    ];
    for (peer, headers, status) in cases {
        let answer = bench.ask(peer.clone(), "GET", "/api/v1/status", &headers, &Value::Null).await;
        assert_eq!(answer.status, status, "{peer:?} {headers:?}");
    }
    // Unknown paths tell nothing to strangers.
    let nobody = bench.ask(stranger, "GET", "/api/v1/nothing", &[], &Value::Null).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    let somebody = bench.ask(own(), "GET", "/api/v1/nothing", &[], &Value::Null).await;
    assert_eq!((somebody.status, somebody.code()), (StatusCode::NOT_FOUND, "not-found"));
    let wrong = bench.ask(own(), "DELETE", "/api/v1/status", &[], &Value::Null).await;
    assert_eq!((wrong.status, wrong.code()), (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"));
    assert!(wrong.header("allow").contains("GET"), "{wrong:?}");
}

#[tokio::test]
async fn foreign_names_and_pages_are_turned_away() {
    let settings = Settings {
        hosts: vec!["portolan.internal".to_owned()],
        origins: vec!["https://console.example".to_owned()],
        ..Settings::default()
    };
    let bench = Bench::new(settings);
    let token = bench.token(Role::Admin, None).await;
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("host", "localhost:9180")], 200),
        (&[("host", "127.0.0.1:9180")], 200),
        (&[("host", "[::1]:9180")], 200),
        (&[("host", "portolan.internal")], 200),
        (&[("host", "evil.example")], 421),
        (&[("host", "localhost.evil.example")], 421),
        (&[("host", "evil@localhost")], 421),
        (&[("host", "")], 421),
        (&[("host", "localhost"), ("host", "localhost")], 421),
        (&[("host", "localhost:9180"), ("origin", "http://localhost:9180")], 200),
        (&[("host", "localhost:9180"), ("origin", "http://localhost:8080")], 403),
        (&[("host", "localhost"), ("origin", "https://console.example")], 200),
        (&[("host", "localhost"), ("origin", "https://evil.example")], 403),
        (&[("host", "localhost"), ("origin", "null")], 403),
        (&[("host", "localhost"), ("sec-fetch-site", "cross-site")], 403),
        (&[("host", "localhost"), ("sec-fetch-site", "same-site")], 403),
        (&[("host", "localhost"), ("sec-fetch-site", "same-origin")], 200),
    ];
    for (headers, status) in cases {
        let mut all = headers.to_vec();
        all.push(("authorization", &token));
        let answer = bench.ask(tcp(), "GET", "/api/v1/status", &all, &Value::Null).await;
        assert_eq!(answer.status.as_u16(), *status, "{headers:?}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}
