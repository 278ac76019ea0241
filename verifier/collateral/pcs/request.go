package pcs

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/pck"
)

// TEE names the technology whose TCB info and QE identity are asked for.
type TEE string

// The two technologies that Intel publishes collateral for.
const (
	TDX TEE = "tdx"
	SGX TEE = "sgx"
)

// Channel selects which TCB evaluation the PCS answers with (its "update"
// parameter): the early one is published when a recovery is announced, the
// standard one when platforms have had time to update.
type Channel string

// The two channels; an empty Channel is Standard.
const (
	Standard Channel = "standard"
	Early    Channel = "early"
)

// Request says which collateral is wanted.
type Request struct {
	TEE   TEE
	FMSPC [6]byte // as in the PCK certificate's extension
	CA    pck.CA  // of the PCK certificate's issuer
	// Channel and Evaluation exclude each other (the PCS refuses both at
	// once): a non-zero Evaluation asks for exactly that
	// tcbEvaluationDataNumber.
	Channel    Channel
	Evaluation uint32
}

// validate refuses requests that the PCS would not understand.
func (r Request) validate() error {
	bad := func(what string) error {
		return fault.New(fault.ExitInternal, "dcap.collateral.request", "", "asking for collateral: %s", what)
	}
	if r.TEE != TDX && r.TEE != SGX {
		return bad(fmt.Sprintf("TEE %q is neither tdx nor sgx", r.TEE))
	}
	if r.CA != pck.PlatformCA && r.CA != pck.ProcessorCA {
		return bad(fmt.Sprintf("CA %q is neither platform nor processor", r.CA))
	}
	switch r.Channel {
	case "", Standard, Early:
	default:
		return bad(fmt.Sprintf("channel %q is neither standard nor early", r.Channel))
	}
	if r.Evaluation != 0 && r.Channel != "" {
		return bad("channel and evaluation number exclude each other")
	}
	return nil
}

// kind is the kind of one part of the collateral.
type kind string

const (
	kindTCBInfo    kind = "tcb_info"
	kindQEIdentity kind = "qe_identity"
	kindPCKCRL     kind = "pck_crl"
	kindRootCRL    kind = "root_ca_crl"
)

// partRef names one part at one source; it is the unit of caching. It is
// comparable.
type partRef struct {
	kind       kind
	tee        TEE
	fmspc      [6]byte
	ca         pck.CA
	channel    Channel
	evaluation uint32
}

// parts lists what a request needs, each reduced to the fields that select
// it, so that two requests share what is common.
func (r Request) parts() []partRef {
	ch := r.Channel
	if ch == "" && r.Evaluation == 0 {
		ch = Standard
	}
	return []partRef{
		{kind: kindTCBInfo, tee: r.TEE, fmspc: r.FMSPC, channel: ch, evaluation: r.Evaluation},
		{kind: kindQEIdentity, tee: r.TEE, channel: ch, evaluation: r.Evaluation},
		{kind: kindPCKCRL, ca: r.CA},
		{kind: kindRootCRL},
	}
}

// String returns the part's name as log lines and cache entries have it.
func (p partRef) String() string {
	s := string(p.kind)
	if p.tee != "" {
		s += " " + string(p.tee)
	}
	if p.kind == kindTCBInfo {
		s += " " + hex.EncodeToString(p.fmspc[:])
	}
	if p.ca != "" {
		s += " " + string(p.ca)
	}
	if p.evaluation != 0 {
		s += " evaluation " + strconv.FormatUint(uint64(p.evaluation), 10)
	} else if p.channel != "" {
		s += " " + string(p.channel)
	}
	return s
}

// Paths and issuer chain headers of the PCS API, version 4
// (Intel SGX and Intel TDX services, "API Documentation", v4).
const (
	pathV4           = "/certification/v4"
	headerTCBInfo    = "TCB-Info-Issuer-Chain"
	headerTCBInfoOld = "SGX-TCB-Info-Issuer-Chain"
	headerQE         = "SGX-Enclave-Identity-Issuer-Chain"
	headerPCKCRL     = "SGX-PCK-CRL-Issuer-Chain"
)

// urlFor returns the address of a part under a base URL. A root CRL has this
// address on a PCCS only.
func (p partRef) urlFor(base string) string {
	q := url.Values{}
	if p.evaluation != 0 {
		q.Set("tcbEvaluationDataNumber", strconv.FormatUint(uint64(p.evaluation), 10))
	} else if p.channel == Early {
		// The standard channel is the API's default; leaving it out also suits
		// caching services that predate the parameter.
		q.Set("update", string(p.channel))
	}
	var path string
	switch p.kind {
	case kindTCBInfo:
		path = "/" + string(p.tee) + pathV4 + "/tcb"
		q.Set("fmspc", hex.EncodeToString(p.fmspc[:]))
	case kindQEIdentity:
		path = "/" + string(p.tee) + pathV4 + "/qe/identity"
	case kindPCKCRL:
		path = "/sgx" + pathV4 + "/pckcrl"
		q.Set("ca", string(p.ca))
		q.Set("encoding", "der")
	case kindRootCRL:
		path = "/sgx" + pathV4 + "/rootcacrl"
	}
	if len(q) == 0 {
		return base + path
	}
	return base + path + "?" + q.Encode()
}

// cleanBase checks a base URL and takes off what users copy along from a
// PCCS's configuration ("https://host:8081/sgx/certification/v4/").
func cleanBase(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		return "", fault.New(fault.ExitInternal, "dcap.collateral.url",
			"give the base URL of Intel's PCS or of a PCCS, such as "+IntelPCS,
			"reading the collateral service's address %q: not an http or https base URL", raw)
	}
	path := strings.TrimRight(u.Path, "/")
	for _, tee := range []TEE{SGX, TDX} {
		path = strings.TrimSuffix(path, "/"+string(tee)+pathV4)
	}
	return u.Scheme + "://" + u.Host + path, nil
}
