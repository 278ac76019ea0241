// Package verifierv1 is the verifier's API: messages, Connect client and
// handler, and the OpenAPI document, all generated from verifier.proto by
// "make generate" (docs/verifier-api.md).
package verifierv1

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of the service.
//
//go:embed openapi.json
var OpenAPI string
