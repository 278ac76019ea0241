// Package exitcode names the contracts' exit codes. The numbers are defined in contracts/tolk/codes.tolk; a test compares
// the two tables. A code's name becomes the fault code "contract.<name>".
package exitcode

import (
	"fmt"

	"cocoon/internal/fault"
)

// Code is an exit code of a transaction's compute phase.
type Code int32

// The codes; OK is success, 1001 to 1021 are the registry's reasons against a
// verdict.
const (
	OK                   Code = 0
	VerdictVersion       Code = 1001
	VerdictGlobalID      Code = 1002
	VerdictRegistry      Code = 1003
	RegistryPaused       Code = 1004
	TrustClassRefused    Code = 1005
	ManifestUnknown      Code = 1006
	ManifestRevoked      Code = 1007
	ManifestGraceOver    Code = 1008
	ModelUnknown         Code = 1009
	FeeOverCap           Code = 1010
	VerifierUnknown      Code = 1011
	SignatureList        Code = 1012
	SignatureInvalid     Code = 1013
	SignaturesTooFew     Code = 1014
	VerdictNotYetValid   Code = 1015
	VerdictExpired       Code = 1016
	VerdictInterval      Code = 1017
	ModelRetired         Code = 1018
	PolicyNotAccepted    Code = 1019
	ManifestRenewalsOnly Code = 1020
	VerifierFeeLow       Code = 1021
	ManifestScheduled    Code = 1022
	ModelScheduled       Code = 1023
	PolicyScheduled      Code = 1024
	UnknownOpcode        Code = 1100
	ValueTooLow          Code = 1101
	AmountZero           Code = 1102
	JobNotOpen           Code = 1103
	JobNotFunded         Code = 1104
	VerdictRecorded      Code = 1106
	VerdictsFull         Code = 1107
	NotRegistry          Code = 1112
	JobNotReleased       Code = 1114
	VoucherTarget        Code = 1115
	VoucherVerdict       Code = 1116
	VoucherSignature     Code = 1117
	VoucherReplayed      Code = 1118
	VoucherNotHigher     Code = 1119
	VoucherOverDeposit   Code = 1120
	VoucherCountLower    Code = 1121
	BalanceTooLow        Code = 1122
	NotClient            Code = 1123
	AlreadyClosing       Code = 1124
	JobClosed            Code = 1125
	NotClosing           Code = 1126
	CloseTooEarly        Code = 1127
	NoStake              Code = 1128
	ReceiptVerdict       Code = 1129
	ReceiptsAgree        Code = 1130
	ReceiptSignature     Code = 1131
	WrongTerms           Code = 1132
	NotWorkerOwner       Code = 1140
	StakeTooLow          Code = 1141
	StakeNotLeaving      Code = 1142
	StakeLocked          Code = 1143
	GenerationNotNext    Code = 1144
	NotJob               Code = 1145
	NotBondOwner         Code = 1201
	ManifestState        Code = 1202
	ManifestFinal        Code = 1203
	ThresholdInvalid     Code = 1204
	ParametersInvalid    Code = 1205
	TrustClassDevnet     Code = 1206
	VerifiersFull        Code = 1207
	WithdrawTooMuch      Code = 1208
	OrderTarget          Code = 1209
	OrderNumber          Code = 1210
	OrderExpired         Code = 1211
	OwnerList            Code = 1212
	OwnerUnknown         Code = 1213
	OwnerSignatureBad    Code = 1214
	OwnersTooFew         Code = 1215
	OrderMustWait        Code = 1216
	OrderNotPending      Code = 1217
	OrderTooEarly        Code = 1218
	OrdersFull           Code = 1219
	OrderFinal           Code = 1220
	EntryUnknown         Code = 1221
	EntriesTooMany       Code = 1222
	CheckpointNotHigher  Code = 1223
	OwnersInvalid        Code = 1224
	UpgradeNotAlone      Code = 1225
	LayoutUnknown        Code = 1226
	VerifierNotListed    Code = 1227
	ClaimInvalid         Code = 1228
	NothingToPay         Code = 1229
	BondLocked           Code = 1230
	NoContradiction      Code = 1231
	VerifierInterval     Code = 1232
	VerifierBondLow      Code = 1233
	OwnersPending        Code = 1234
	OwnersNotFirst       Code = 1235
	NotSchedulable       Code = 1236
	IDTaken              Code = 1237
)

// NotExecuted stands for a message whose contract did not run at all: there is
// no code at the address, or the value does not pay for its first step.
const NotExecuted Code = -1

// entry says what a code means for the one who meets it.
type entry struct {
	name   string
	exit   int
	text   string
	remedy string
}

const (
	refused = fault.ExitRefused
	policy  = fault.ExitPolicy
)

var entries = map[Code]entry{
	OK:                   {"ok", fault.ExitOK, "done", ""},
	VerdictVersion:       {"verdict_version", refused, "the verdict has a format version that the registry does not read", "use a verifier of the registry's version"},
	VerdictGlobalID:      {"verdict_global_id", refused, "the verdict was made for another TON network", "ask for a verdict on this network"},
	VerdictRegistry:      {"verdict_registry", refused, "the verdict was made for another registry", "ask for a verdict for the job's registry"},
	RegistryPaused:       {"registry_paused", policy, "the registry is paused: nothing is released, but vouchers are redeemed and jobs closed", "wait for the registry's owner"},
	TrustClassRefused:    {"trust_class_refused", policy, "the network does not accept the verdict's trust class", "run the worker on hardware of an accepted class (cocoon registry show)"},
	ManifestUnknown:      {"manifest_unknown", policy, "the measured image's manifest is not registered", "boot a published image (cocoon registry show lists manifests)"},
	ManifestRevoked:      {"manifest_revoked", refused, "the measured image's manifest is revoked", "boot a current image"},
	ManifestGraceOver:    {"manifest_grace_over", policy, "the grace period of the image's manifest is over", "boot a current image"},
	ModelUnknown:         {"model_unknown", policy, "the model is not registered", "use a registered model (cocoon registry show lists models)"},
	PolicyNotAccepted:    {"policy_not_accepted", policy, "the registry does not accept the policy under which the verdict was made", "ask for a verdict under an accepted policy (cocoon registry show)"},
	ManifestRenewalsOnly: {"manifest_renewals_only", policy, "the image's manifest is in grace: it is good for renewals of released jobs only", "boot a current image"},
	ManifestScheduled:    {"manifest_scheduled", policy, "the measured image's manifest waits the registry's time lock", "wait until it is active (cocoon registry show)"},
	ModelScheduled:       {"model_scheduled", policy, "the model waits the registry's time lock", "wait until it is active (cocoon registry show)"},
	PolicyScheduled:      {"policy_scheduled", policy, "the policy waits the registry's time lock", "wait until it is accepted (cocoon registry show)"},
	VerifierFeeLow:       {"verifier_fee_low", policy, "the verifiers' fee that the job offers is lower than the registry's", "offer the registry's fee (cocoon registry show)"},
	ModelRetired:         {"model_retired", policy, "the model is no longer active in the registry", "use an active model"},
	FeeOverCap:           {"fee_over_cap", policy, "the job's gateway fee is over the registry's cap", "open a job with a lower fee"},
	VerifierUnknown:      {"verifier_unknown", refused, "a signature is by a key that the registry does not list", "ask a registered verifier"},
	SignatureList:        {"signature_list_invalid", refused, "the signatures are not in strictly ascending order of key id", "put the verdict together again from single signatures"},
	SignatureInvalid:     {"signature_invalid", refused, "a verifier's signature does not fit the verdict", "the verdict was changed or forged; ask the verifier again"},
	SignaturesTooFew:     {"signatures_too_few", refused, "fewer verifiers signed than the registry's threshold", "collect signatures from more verifiers"},
	VerdictNotYetValid:   {"verdict_not_yet_valid", refused, "the verdict's time, or that of a verifier's key, has not begun", "check the verifier's clock, then send the verdict again"},
	VerdictExpired:       {"verdict_expired", refused, "the verdict's time, or that of a verifier's key, is over", "ask for a fresh verdict"},
	VerdictInterval:      {"verdict_interval", refused, "the verdict claims to be valid for longer than the registry allows", "ask for a verdict of at most an hour"},
	UnknownOpcode:        {"unknown_opcode", refused, "the contract does not know this operation", "use a client of the contract's version"},
	ValueTooLow:          {"value_too_low", refused, "the message brings less than its gas and reserve need", "attach more; what is not used comes back"},
	AmountZero:           {"amount_zero", refused, "the deposit is zero", "deposit more than zero"},
	JobNotOpen:           {"job_not_open", refused, "the job is closing, or its client asked for that", "open a new job"},
	JobNotFunded:         {"job_not_funded", refused, "the job has no deposit", "deposit first"},
	VerdictRecorded:      {"verdict_already_recorded", refused, "this verdict has released the job before", "nothing to do; renew with a fresh verdict"},
	VerdictsFull:         {"verdicts_full", refused, "the job has recorded as many verdicts as it can hold", "open a new job"},
	NotRegistry:          {"not_registry", refused, "word of a good verdict came from an address that is not the job's registry", "send the verdict to the job's registry"},
	JobNotReleased:       {"job_not_released", refused, "the job was not released", "send a verdict first"},
	VoucherTarget:        {"voucher_wrong_target", refused, "the voucher is for another job or network", "ask the client for a voucher for this job"},
	VoucherVerdict:       {"voucher_verdict_unknown", refused, "the voucher names a verdict that did not release this job", "ask the client for a voucher on a recorded verdict"},
	VoucherSignature:     {"voucher_signature", refused, "the voucher is not signed by the job's client key", "the voucher was changed or forged"},
	VoucherReplayed:      {"voucher_replayed", refused, "a voucher with this or a higher number was redeemed before", "redeem the client's newest voucher"},
	VoucherNotHigher:     {"voucher_not_higher", refused, "the voucher's amount is not higher than what was paid", "redeem the client's newest voucher"},
	VoucherOverDeposit:   {"voucher_over_deposit", refused, "the job's whole deposit is paid out", "deposit the difference and redeem the voucher again"},
	VoucherCountLower:    {"voucher_count_lower", refused, "the voucher counts fewer receipts than an earlier one", "redeem the client's newest voucher"},
	BalanceTooLow:        {"balance_too_low", refused, "storage fees have used up what the job held", "deposit more and redeem the voucher again"},
	NotClient:            {"not_client", refused, "only the job's client can close it, its payout once it was released, and anyone when it was idle for 90 days", "send from the client's wallet"},
	AlreadyClosing:       {"already_closing", refused, "the job is closing already", "finish it after its delay"},
	JobClosed:            {"job_closed", refused, "the job is closed for good", "open a new job"},
	NotClosing:           {"not_closing", refused, "the job is not closing", "close it first"},
	CloseTooEarly:        {"close_too_early", refused, "the job's closing delay is not over", "wait until the time that cocoon job show gives"},
	NoStake:              {"no_stake", refused, "the job's terms name no worker contract with a stake", "open jobs with a stake (cocoon job open --stake)"},
	ReceiptVerdict:       {"receipt_verdict_unknown", refused, "the accusation names a verdict that did not release this job", "name the verdict of the receipts"},
	ReceiptsAgree:        {"receipts_agree", refused, "the two receipts are the same", "accuse with two receipts that differ"},
	ReceiptSignature:     {"receipt_signature", refused, "a receipt is not signed by the recorded receipt key, or not for this job and number", "accuse with receipts as they were received"},
	WrongTerms:           {"verdict_wrong_terms", refused, "the verdict names another payout, model or policy than the job's terms", "only a verdict on the job's own worker, model and policy releases it"},
	NotWorkerOwner:       {"not_worker_owner", refused, "only the worker contract's owner can do this", "send from the owner's wallet"},
	StakeTooLow:          {"stake_too_low", refused, "the stake is less than what is to leave", "ask for less"},
	StakeNotLeaving:      {"stake_not_leaving", refused, "no part of the stake waits for its withdrawal", "begin to leave first"},
	StakeLocked:          {"stake_locked", refused, "the wait for the withdrawal is not over", "wait until the time that the worker contract's state gives"},
	GenerationNotNext:    {"generation_not_next", refused, "the boot generation is not the one after the last", "announce the next generation"},
	NotJob:               {"not_job", refused, "the accusation does not come from a job of this payout and registry", "accuse through the job of the receipts"},
	NotBondOwner:         {"not_bond_owner", refused, "only the address that the first bond named can do this", "send from the bond owner's address"},
	ManifestState:        {"manifest_state_invalid", refused, "the manifest's state and grace time do not go together", "active and revoked have no grace time, grace needs one"},
	ManifestFinal:        {"manifest_revoked_final", refused, "a revoked manifest stays revoked", "publish a new image"},
	ThresholdInvalid:     {"threshold_invalid", refused, "the threshold is not between 1 and the number of verifiers", "choose another threshold"},
	ParametersInvalid:    {"parameters_invalid", refused, "a parameter is out of its range", "fees at most 10000 basis points, freshness 1 to 3600 seconds"},
	TrustClassDevnet:     {"trust_class_devnet_only", refused, "vtpm can be accepted only by a registry deployed for development", "deploy a development registry"},
	VerifiersFull:        {"verifiers_full", refused, "the registry lists as many verifiers as it can hold", "remove one first"},
	WithdrawTooMuch:      {"withdraw_too_much", refused, "the payment would not leave the verifiers' money and the storage reserve", "withdraw less, or fund the registry"},
	OrderTarget:          {"order_wrong_target", refused, "what was signed is for another network or registry", "sign it for this one"},
	OrderNumber:          {"order_number", refused, "the order's number is used up or too far ahead", "make the order anew (cocoon registry propose)"},
	OrderExpired:         {"order_expired", refused, "the order was to be sent earlier", "make the order anew (cocoon registry propose)"},
	OwnerList:            {"owner_list_invalid", refused, "the owners' signatures are not in strictly ascending order of index", "put the order together again from single signatures"},
	OwnerUnknown:         {"owner_unknown", refused, "a signature is by an owner that the registry does not have", "sign with an owner's key (cocoon registry show)"},
	OwnerSignatureBad:    {"owner_signature", refused, "an owner's signature does not fit", "the order was changed or forged; sign it again"},
	OwnersTooFew:         {"owners_too_few", refused, "fewer owners signed than are needed", "collect more signatures (cocoon registry approve)"},
	OrderMustWait:        {"order_must_wait", refused, "an entry widens trust and cannot act at once", "propose it to wait the time lock"},
	OrderNotPending:      {"order_not_pending", refused, "no order with this number is pending", "look at the pending ones (cocoon registry show)"},
	OrderTooEarly:        {"order_too_early", refused, "the order's time lock is not over", "wait until the time that cocoon registry show gives"},
	OrdersFull:           {"orders_full", refused, "sixteen orders are pending", "execute or veto one first"},
	OrderFinal:           {"order_final", refused, "so many owners signed the order that it cannot be vetoed", "talk to the other owners before its time lock is over"},
	EntryUnknown:         {"entry_unknown", refused, "the order has an entry that the registry does not know", "use a client of the registry's version"},
	EntriesTooMany:       {"entries_too_many", refused, "the order has more than 128 entries", "split it"},
	CheckpointNotHigher:  {"checkpoint_not_higher", refused, "the log's checkpoint is not larger than the one there is", "a log only grows; check which log it is"},
	OwnersInvalid:        {"owners_invalid", refused, "the owners, their thresholds and their time lock do not go together", "1 to 16 owners, veto at most threshold, final over it, at most 30 days"},
	UpgradeNotAlone:      {"upgrade_not_alone", refused, "an upgrade must be its order's only entry", "propose it alone"},
	LayoutUnknown:        {"layout_unknown", refused, "the new code cannot take over the data", "build code for this layout"},
	VerifierNotListed:    {"verifier_not_listed", refused, "the registry does not know the verifier's key", "check the key"},
	ClaimInvalid:         {"claim_invalid", refused, "the verifier's signature does not fit, or its time is over or too long", "sign again with the verifier's key, for at most an hour"},
	NothingToPay:         {"nothing_to_pay", refused, "there is nothing to pay or to take", "nothing to do"},
	BondLocked:           {"bond_locked", refused, "the bond's delay is not over", "wait until the time that cocoon registry show gives"},
	NoContradiction:      {"no_contradiction", refused, "the two verdicts can both be true", "only the same evidence with another receipt key, payout, manifest, model or trust class is a proof"},
	VerifierInterval:     {"verifier_interval", refused, "the key's time would end before it begins", "correct the times"},
	VerifierBondLow:      {"verifier_bond_low", refused, "the key has not the bond that the registry asks for", "post the bond first (cocoon registry bond)"},
	OwnersPending:        {"owners_pending", refused, "an order for other owners is pending: nothing is scheduled until it is executed, vetoed or dropped", "order the entry instead (cocoon registry propose does), or wait"},
	OwnersNotFirst:       {"owners_not_first", refused, "other owners must be the first entry of their order", "make the order anew (cocoon registry propose)"},
	NotSchedulable:       {"not_schedulable", refused, "this entry cannot be scheduled", "order it instead"},
	IDTaken:              {"id_taken", refused, "the id is that of an entry of another kind", "check the hash"},
}

// Known reports whether the contracts define the code.
func (c Code) Known() bool {
	_, ok := entries[c]
	return ok
}

// String returns the stable name; codes of the TVM itself, such as 9 for a
// cell that ends too early, are "tvm_exit_<n>".
func (c Code) String() string {
	if e, ok := entries[c]; ok {
		return e.name
	}
	return fmt.Sprintf("tvm_exit_%d", int32(c))
}

// Fault returns the refusal as a fault with the code "contract.<name>", nil
// for OK. what says what was attempted.
func (c Code) Fault(what string) error {
	if c == OK {
		return nil
	}
	if c == NotExecuted {
		return fault.New(refused, "contract.not_executed", "check the address; the contract may not be deployed", "%s: no contract ran at the address", what)
	}
	e, ok := entries[c]
	if !ok {
		return fault.New(refused, "contract."+c.String(), "check that the message was built by this version's client",
			"%s: the contract stopped with exit code %d", what, int32(c))
	}
	return fault.New(e.exit, "contract."+e.name, e.remedy, "%s: %s (code %d)", what, e.text, int32(c))
}

// Text says what the code means, in one line.
func (c Code) Text() string { return entries[c].text }

// All returns every code that the contracts define.
func All() []Code {
	out := make([]Code, 0, len(entries))
	for c := range entries {
		out = append(out, c)
	}
	return out
}
