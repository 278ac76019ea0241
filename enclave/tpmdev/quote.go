package tpmdev

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/verifier/tpm"
)

// Activate answers a verifier's credential challenge: only the TPM that holds
// both the endorsement key and the attestation key can (Part 3,
// TPM2_ActivateCredential). blob and secret are the contents of the
// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
func (k *Keys) Activate(blob, secret []byte) ([]byte, error) {
	// The EK's policy in both templates is PolicySecret of the endorsement
	// hierarchy, whose authorisation value is empty in a guest.
	ekPolicy := func(t transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{
			AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: handle,
			NonceTPM:      nonce,
		}.Execute(t)
		return err
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: k.ak.handle, Name: k.ak.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: k.ek.handle, Name: k.ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, ekPolicy)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(k.tpm.t)
	if err != nil {
		return nil, fmt.Errorf("activating credential: %w", err)
	}
	return rsp.CertInfo.Buffer, nil
}

// Quote signs the registers of tpm.PCRs and extraData (32 bytes) with the
// attestation key. It returns a TPMS_ATTEST and a TPMT_SIGNATURE.
func (k *Keys) Quote(extraData [32]byte) (attest, signature []byte, err error) {
	rsp, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: k.ak.handle, Name: k.ak.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: extraData[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      tpm.Selection(),
	}.Execute(k.tpm.t)
	if err != nil {
		return nil, nil, fmt.Errorf("quoting: %w", err)
	}
	return rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature), nil
}
