// Package dcap is what TDX and SGX quote verification have in common: the
// options, the order of the checks, the caches, and the part of the result
// that does not depend on the TEE. Packages tdx and sgx are its users' way in.
package dcap

import (
	"time"

	"cocoon/verifier/collateral"
	"cocoon/verifier/pck"
	"cocoon/verifier/result"
	"cocoon/verifier/tcb"
)

// Options of a verification. One Options value may serve any number of
// concurrent verifications; it is never written to.
type Options struct {
	// Roots are the trusted root certificates; nil: Intel's production root.
	// A Collateral set that was opened under other roots is refused.
	Roots *pck.Roots
	// Now is the time of verification; zero: Clock's, or the present.
	Now time.Time
	// Clock gives the time where Now is zero; nil: time.Now.
	Clock func() time.Time
	// Collateral is opened collateral; nil: RawCollateral is opened anew in
	// each verification. One of the two is needed.
	Collateral    *collateral.Set
	RawCollateral *collateral.Raw
	// CollateralGrace is how long after its next update a part of the
	// collateral is still taken.
	CollateralGrace time.Duration
	// PCKChain is a PEM chain, leaf first, for quotes whose certification
	// data does not carry one (types 1 to 3). It is ignored otherwise.
	PCKChain []byte
	// AllowZeroPadding accepts zero bytes after the quote.
	AllowZeroPadding bool
	// Cache keeps verified PCK chains and, where it is told to, QE reports;
	// nil: nothing is kept.
	Cache *Cache
}

// Result is what TDX and SGX results have in common.
type Result struct {
	TEE      string             `json:"tee"`     // "tdx" or "sgx"
	Version  int                `json:"version"` // of the quote
	Genuine  bool               `json:"genuine"` // no check failed: cryptography, binding, times; not Revoked, not NotSupported
	TCB      TCB                `json:"tcb"`
	Debug    bool               `json:"debug"`
	Platform Platform           `json:"platform"`
	Dates    collateral.Summary `json:"collateral"`
	Checks   []result.Check     `json:"checks"`
	// NotAfter is the end of what the checks rest on: the collateral, with the
	// options' grace, and the PCK chain. Zero where both were refused.
	NotAfter time.Time `json:"-"`
}

// until shortens the time that the result is good for.
func (r *Result) until(t time.Time) {
	if r.NotAfter.IsZero() || t.Before(r.NotAfter) {
		r.NotAfter = t
	}
}

// TCB is the converged TCB status and what it was made from. Its Verdict is
// of the launch TCB, its Status after the relaunch rule. It is empty where the
// cryptography does not hold.
type TCB struct {
	tcb.Verdict
	Evaluation   int          `json:"evaluation,omitempty"`    // tcbEvaluationDataNumber of the TCB info
	QEEvaluation int          `json:"qe_evaluation,omitempty"` // tcbEvaluationDataNumber of the QE identity
	Launch       *tcb.Verdict `json:"launch,omitempty"`        // TD 1.5 and later in quote v5: of TEE_TCB_SVN
	Current      *tcb.Verdict `json:"current,omitempty"`       // likewise, of TEE_TCB_SVN2
}

// Platform is what the PCK certificate says of the platform.
type Platform struct {
	FMSPC   string `json:"fmspc,omitempty"` // lower-case hex
	PCEID   string `json:"pceid,omitempty"`
	PPID    string `json:"ppid,omitempty"`
	CPUSVN  string `json:"cpusvn,omitempty"`
	PCESVN  uint16 `json:"pcesvn"`
	CA      pck.CA `json:"ca,omitempty"`
	SGXType int    `json:"sgx_type"`
	// InstanceID is the platform instance ID, Platform CA only.
	InstanceID string `json:"platform_instance_id,omitempty"`
	// Flags are nil where the certificate does not state them.
	DynamicPlatform *bool `json:"dynamic_platform,omitempty"`
	CachedKeys      *bool `json:"cached_keys,omitempty"`
	SMTEnabled      *bool `json:"smt_enabled,omitempty"`
}
