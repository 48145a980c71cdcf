//! The description of the API (OpenAPI 3.1), made of the same words as its routes.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::problem::{Code, Fault, Place, Problem};
use crate::routes::Routes;

/// Where it is served.
pub(crate) const PATH: &str = "/api/openapi.json";

/// The description of all routes.
#[must_use]
pub fn openapi() -> OpenApi {
    routes().finish().1
}

/// All routes.
pub(crate) fn routes() -> Routes {
    let mut routes = Routes::new(begin());
    for add in [
        crate::changes::add,
        crate::decisions::add,
        crate::explain::add,
        crate::failovers::add,
        crate::listen::add,
        crate::objects::add,
        crate::operations::add,
        crate::plugins::add,
        crate::previews::add,
        crate::purges::add,
        crate::rollouts::add,
        crate::shards::add,
        crate::conflicts::add,
        crate::audits::add,
        crate::moves::add,
        crate::status::add,
        crate::tail::add,
        crate::tenancy::add,
        crate::claims::add,
        crate::erasures::add,
        crate::tenants::add,
        crate::tokens::add,
    ] {
        routes = add(routes);
    }
    routes
}

fn begin() -> OpenApi {
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let components = ComponentsBuilder::new()
        .schema(Code::name(), Code::schema())
        .schema(Fault::name(), Fault::schema())
        .schema(Place::name(), Place::schema())
        .schema(Problem::name(), Problem::schema())
        .security_scheme("token", token)
        .build();
    let description = "What operators, tenants and developers ask of a portolan node. Every change is checked by what a node \
                       would run, makes one generation, and is an entry of the hash-chained log. `x-scope` names what a \
                       token must be allowed.";
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("portolan")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(description))
                .build(),
        )
        .components(Some(components))
        .build()
}
