package dcap

import "encoding/hex"

// IDs of checks that both TEEs share.
const (
	idCollateralSignature = "dcap.collateral.signature"
	idCollateralCurrent   = "dcap.collateral.current"
	idTEE                 = "dcap.collateral.tee"
	idFMSPC               = "dcap.collateral.fmspc"
	idPCEID               = "dcap.collateral.pceid"
)

// ids are the IDs that start with the TEE's name. They are constants rather
// than put together on the way: a verification allocates little else.
type ids struct {
	quoteSignature, attestationKey, vendor string
	qeSignature, qeBinding, qeIdentity     string
	tcbStatus                              string
}

func idsOf(tee *TEE) *ids {
	if tee.Name == "tdx" {
		return &tdxIDs
	}
	return &sgxIDs
}

var tdxIDs = ids{
	quoteSignature: "tdx.quote.signature",
	attestationKey: "tdx.quote.attestation_key",
	vendor:         "tdx.quote.vendor",
	qeSignature:    "tdx.qe.signature",
	qeBinding:      "tdx.qe.binding",
	qeIdentity:     "tdx.qe.identity",
	tcbStatus:      "tdx.tcb.status",
}

var sgxIDs = ids{
	quoteSignature: "sgx.quote.signature",
	attestationKey: "sgx.quote.attestation_key",
	vendor:         "sgx.quote.vendor",
	qeSignature:    "sgx.qe.signature",
	qeBinding:      "sgx.qe.binding",
	qeIdentity:     "sgx.qe.identity",
	tcbStatus:      "sgx.tcb.status",
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
