// Package wire turns what the verifier says into the messages of its API and
// back (api/verifier/v1/verifier.proto, docs/verifier-api.md), and has the
// documents that are served beside the API. In come results and faults, or
// messages of a service that is not trusted; out come the other.
package wire

import (
	"encoding/json"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/result"
)

// Paths that are served beside the API's methods.
const (
	PathInfo    = "/.well-known/cocoon-verifier"
	PathJWKS    = "/.well-known/jwks.json"
	PathOpenAPI = "/openapi.json"
	PathMAA     = "/attest/TdxVm"
	PathChecks  = "/checks.json" // what checks follow, by their IDs (result.References)
	PathHealth  = "/healthz"
	PathReady   = "/readyz"
	PathMetrics = "/metrics"
)

// HeaderPromise is the header in which an answer in Azure's call shape, which has
// no place for it, carries the log's promise (package journal), in base64.
const HeaderPromise = "Cocoon-Log-Promise"

// CodeNoManifest is the fault of a verifier that does not have a manifest.
const CodeNoManifest = "manifest.unknown"

// Info says what a service is (GET PathInfo). It is a claim: pin keys by
// another way.
type Info struct {
	Build    string      `json:"build"`
	Keys     []Key       `json:"keys"`     // that sign verdicts
	AKRoots  [][]byte    `json:"ak_roots"` // DER; that certify attestation keys
	Policies []PolicyRef `json:"policies"`
	// TestRoots are the roots in use that are not the makers' own: every verdict
	// says so, and none is of a hardware class.
	TestRoots []string `json:"test_roots"`
	// Evidence is of the machine that the service runs in, where that has any,
	// and for whoever asks to appraise: a self.Document, which binds the keys,
	// policies and log of this one, or what a supervisor collected, which does not.
	Evidence json.RawMessage `json:"evidence,omitempty"`
	// LogKey is the verifier key (C2SP signed-note) of the log that has every
	// verdict, served below the same address; empty without one.
	LogKey  string `json:"log_key,omitempty"`
	JWKS    string `json:"jwks_path"`
	OpenAPI string `json:"openapi_path"`
}

// Key is a key that signs verdicts.
type Key struct {
	KeyID  string        `json:"kid"`     // SHA-256 of the raw public key, hex
	Public digest.SHA256 `json:"ed25519"` // raw public key
	// State is KeyCurrent, KeyNext or KeyRetiring: a retiring key signs no more,
	// and is listed until the last of its verdicts has expired.
	State     string `json:"state"`
	NotBefore string `json:"not_before,omitempty"` // when it begins to sign
	RetireAt  string `json:"retire_at,omitempty"`  // when it ends to
}

// States of a Key.
const (
	KeyCurrent  = "current"
	KeyNext     = "next"
	KeyRetiring = "retiring"
)

// PolicyRef names a policy.
type PolicyRef struct {
	SHA256 digest.SHA256 `json:"sha256"`
	Name   string        `json:"name"`
}

// Problem is an error outside the API's methods (RFC 9457,
// application/problem+json).
type Problem struct {
	Type   string         `json:"type"` // "urn:cocoon:problem:" + Code
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Code   string         `json:"code"`             // the first fault's code
	Faults []Fault        `json:"faults"`           // every fault
	Result *result.Result `json:"result,omitempty"` // of refused evidence: every check
}

// Fault is one failure within a Problem.
type Fault struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
	Exit     int    `json:"exit"` // exit code of a command that meets it
	// Document and Section are what the refused thing would have followed, as of a
	// check; empty where the code is no check's.
	Document string `json:"document,omitempty"`
	Section  string `json:"section,omitempty"`
}

// FaultOf returns a fault as it is in a Problem.
func FaultOf(f *fault.Fault) Fault {
	ref := result.ReferenceOf(f.Code)
	return Fault{Code: f.Code, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy, Exit: f.Exit, Document: ref.Document, Section: ref.Section}
}
