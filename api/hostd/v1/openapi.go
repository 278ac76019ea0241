// Package hostdv1 is the host daemon's API: messages, Connect client and
// handler, and the OpenAPI document, all generated from hostd.proto by
// "make generate" (docs/hostd.md).
package hostdv1

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of the service.
//
//go:embed openapi.json
var OpenAPI string
