package platform

import (
	"context"
	"slices"
	"testing"

	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/tpm"
)

// quoter signs by returning what it signs.
type quoter struct{}

func (quoter) EKCertificate() []byte { return []byte("ek certificate") }
func (quoter) EKPublic() []byte      { return []byte("ek") }
func (quoter) AKPublic() []byte      { return []byte("ak") }
func (quoter) Activate(blob, secret []byte) ([]byte, error) {
	return append(slices.Clone(blob), secret...), nil
}
func (quoter) Quote(extra [32]byte) ([]byte, []byte, error) {
	return extra[:], []byte("signature"), nil
}

// verifier certifies with the chain that a test sets.
type verifier struct {
	enrolled  *tpm.EnrollRequest
	activated *tpm.ActivateRequest
	chain     [][]byte
}

func (v *verifier) Enroll(_ context.Context, in *tpm.EnrollRequest) (*tpm.EnrollResponse, error) {
	v.enrolled = in
	return &tpm.EnrollResponse{Session: digest.Sum256([]byte("s")), CredentialBlob: []byte("blob"), Secret: []byte("secret")}, nil
}

func (v *verifier) Activate(_ context.Context, in *tpm.ActivateRequest) (*tpm.ActivateResponse, error) {
	v.activated = in
	return &tpm.ActivateResponse{CertChain: v.chain}, nil
}

func TestATPMEnrolsBeforeItQuotes(t *testing.T) {
	m := &vtpm{quoter: quoter{}, log: []byte("log"), events: []evidence.RuntimeEvent{evidence.LatchEvent()}}
	claims := &evidence.Claims{Payout: "p"}
	if _, err := m.CPU(t.Context(), claims); err == nil {
		t.Error("a quote without a certificate for its key")
	}
	v := &verifier{}
	if err := m.Enrol(t.Context(), v); err == nil {
		t.Error("an enrolment without a certificate passed")
	}
	v.chain = [][]byte{[]byte("ak certificate")}
	if err := m.Enrol(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if string(v.enrolled.EKChain[0]) != "ek certificate" || string(v.enrolled.EKPublic) != "ek" || string(v.enrolled.AKPublic) != "ak" {
		t.Errorf("enrolled %+v", v.enrolled)
	}
	if string(v.activated.Credential) != "blobsecret" || v.activated.Session != digest.Sum256([]byte("s")) {
		t.Errorf("activated %+v", v.activated)
	}
	cpu, err := m.CPU(t.Context(), claims)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := claims.QualifyingData()
	if cpu.Type != evidence.TypeTPM || !slices.Equal(cpu.Quote, data[:]) || string(cpu.Signature) != "signature" ||
		string(cpu.CertChain[0]) != "ak certificate" || string(cpu.EventLog) != "log" || len(cpu.RuntimeEvents) != 1 {
		t.Errorf("evidence is %+v", cpu)
	}
}
