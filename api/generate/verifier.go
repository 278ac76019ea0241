package main

// verifierPaths are what a verifier serves beside its methods
// (docs/verifier-api.md, Requests).
func verifierPaths(paths object) {
	paths["/attest/TdxVm"] = object{"post": attestTDX()}
	text, texts := object{"type": "string"}, object{"type": "array", "items": object{"type": "string"}}
	hash := object{"type": "string", "pattern": "^[0-9a-f]{64}$"}
	list := func(props object) object {
		return object{"type": "array", "items": object{"type": "object", "properties": props}}
	}
	state := object{"type": "object", "required": []string{"status"}, "properties": object{"status": text}}
	document := func(path, id, what string, schema object) {
		paths[path] = object{"get": object{"operationId": id, "description": what, "responses": object{
			"200":     object{"description": "the document", "content": jsonOf(schema)},
			"default": object{"description": "nothing was answered (RFC 9457)", "content": object{"application/problem+json": object{"schema": object{"type": "object"}}}},
		}}}
	}
	document("/.well-known/cocoon-verifier", "Info", "What the service says of itself: a claim, pin keys by another way.",
		object{"type": "object", "required": []string{"build", "keys", "ak_roots", "policies", "test_roots", "jwks_path", "openapi_path"}, "properties": object{
			"build":    text,
			"keys":     list(object{"kid": hash, "ed25519": hash, "state": object{"type": "string", "enum": []string{"current", "next", "retiring"}}, "not_before": text, "retire_at": text}),
			"ak_roots": texts, "policies": list(object{"sha256": hash, "name": text}), "test_roots": texts,
			"evidence": object{"type": "object", "description": "of the machine that the service runs in"},
			"log_key":  text, "jwks_path": text, "openapi_path": text,
		}})
	document("/.well-known/jwks.json", "JWKS", "The keys that sign verdicts (RFC 7517, RFC 8037).",
		object{"type": "object", "required": []string{"keys"}, "properties": object{"keys": list(object{"kty": text, "crv": text, "x": text, "kid": text, "alg": text, "use": text})}})
	document("/openapi.json", "OpenAPI", "This document.", object{"type": "object"})
	document("/checks.json", "Checks", "Document and section that each check follows, by its id; one that ends in a dot stands for all that begin with it.",
		object{"type": "object", "additionalProperties": object{"type": "object", "properties": object{"document": text, "section": text}}})
	document("/healthz", "Health", "The service runs.", state)
	document("/readyz", "Ready", "The service can decide; 503 where it cannot.", state)
	ready, _ := paths["/readyz"].(object)["get"].(object)["responses"].(object)
	delete(ready, "default")
	ready["503"] = object{"description": "it drains, has no signing key in force, or cannot reach its registry or shared store", "content": jsonOf(state)}
	paths["/metrics"] = object{"get": object{"operationId": "Metrics", "description": "Requests, verdicts, refusals and times, for Prometheus.",
		"responses": object{"200": object{"description": "the metrics", "content": object{"text/plain": object{"schema": text}}}}}}
}
