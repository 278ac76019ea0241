package tcb

import "cocoon/internal/fault"

// Code returns the last part of the fault code for a status: "out_of_date"
// for OutOfDate. An unknown status gives "unknown".
func (s Status) Code() string {
	switch s {
	case UpToDate:
		return "up_to_date"
	case SWHardeningNeeded:
		return "sw_hardening_needed"
	case ConfigurationNeeded:
		return "configuration_needed"
	case ConfigurationAndSWHardeningNeeded:
		return "configuration_and_sw_hardening_needed"
	case OutOfDate:
		return "out_of_date"
	case OutOfDateConfigurationNeeded:
		return "out_of_date_configuration_needed"
	case Revoked:
		return "revoked"
	case TDRelaunchAdvised:
		return "td_relaunch_advised"
	case TDRelaunchAdvisedConfigurationNeeded:
		return "td_relaunch_advised_configuration_needed"
	case NotSupported:
		return "not_supported"
	}
	return "unknown"
}

// Remedy says what the platform's owner can do about a status; empty for
// UpToDate.
func (s Status) Remedy() string {
	switch s {
	case UpToDate:
		return ""
	case SWHardeningNeeded:
		return "rebuild the workload with the software mitigations that the advisories name, or accept the status by policy"
	case ConfigurationNeeded:
		return "change the platform's BIOS settings as the advisories say, for example disable hyper-threading, or accept the status by policy"
	case ConfigurationAndSWHardeningNeeded:
		return "change the platform's BIOS settings and apply the software mitigations that the advisories name, or accept the status by policy"
	case OutOfDate:
		return "update the platform's BIOS, microcode and TDX module or SGX platform software, and reboot"
	case OutOfDateConfigurationNeeded:
		return "update the platform's BIOS, microcode and TDX module or SGX platform software, change its BIOS settings as the advisories say, and reboot"
	case TDRelaunchAdvised:
		return "launch the TD again: it was launched under an older TDX module than the one that runs now"
	case TDRelaunchAdvisedConfigurationNeeded:
		return "change the platform's BIOS settings as the advisories say and launch the TD again: it was launched under an older TDX module than the one that runs now"
	case Revoked:
		return "use another platform: Intel has revoked this TCB"
	default:
		return "update the platform: its TCB is below every level that Intel publishes, or the collateral is older than its TDX module"
	}
}

// Fault returns the refusal for a status, with code "<tee>.tcb.<Code>". It
// exits 2 for Revoked, NotSupported and unknown statuses, 4 for every other
// (DESIGN section 8).
func (s Status) Fault(tee string) *fault.Fault {
	exit := fault.ExitPolicy
	if s == Revoked || s == NotSupported || !s.Known() {
		exit = fault.ExitRefused
	}
	return &fault.Fault{
		Code: tee + ".tcb." + s.Code(), Exit: exit, Msg: "TCB status is " + string(s),
		Expected: string(UpToDate), Actual: string(s), Remedy: s.Remedy(),
	}
}
