// Package tcb holds Intel's TCB data and its evaluation: TCB info and QE
// identity documents (signed JSON of Intel's Provisioning Certification
// Service, API v4) come in as bytes, a platform's security version numbers
// as numbers; a status with its date and advisories goes out.
//
// The rules are those of Intel's Quote Verification Library (EvaluateTcb,
// TDRelaunchCheck, QuoteVerifier) and of "Get TDX/SGX TCB Info V4" in
// Intel's PCS API documentation. Signatures are package collateral's matter.
package tcb

// Status is a TCB status, in the spelling of Intel's TCB info.
type Status string

// Statuses that a TCB level, or the convergence of several, can have.
const (
	UpToDate                             Status = "UpToDate"
	SWHardeningNeeded                    Status = "SWHardeningNeeded"
	ConfigurationNeeded                  Status = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded    Status = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                            Status = "OutOfDate"
	OutOfDateConfigurationNeeded         Status = "OutOfDateConfigurationNeeded"
	Revoked                              Status = "Revoked"
	TDRelaunchAdvised                    Status = "TDRelaunchAdvised"
	TDRelaunchAdvisedConfigurationNeeded Status = "TDRelaunchAdvisedConfigurationNeeded"
	NotSupported                         Status = "NotSupported" // no level matches: the platform is below every known one
)

// Statuses lists every status, best first.
func Statuses() []Status {
	return []Status{UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded,
		TDRelaunchAdvised, TDRelaunchAdvisedConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded,
		Revoked, NotSupported}
}

// Known reports whether s is one of the constants of this package.
func (s Status) Known() bool {
	for _, k := range Statuses() {
		if s == k {
			return true
		}
	}
	return false
}
