// Package forecast looks ahead for the owner of a platform: a quote and
// collateral come in, of today's TCB evaluation and, where there is one, of
// the next; what goes out is the status under both, how long each part of the
// collateral lasts, and which components have to be updated.
//
// Intel publishes a TCB evaluation early, when a recovery is announced, and
// makes it the standard one about a year later ("Get TDX TCB Info V4",
// parameter update): what the early channel says today is what every verifier
// says then.
package forecast

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/sgx"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
)

// Input is what a forecast is made from.
type Input struct {
	Quote            []byte
	PCKChain         []byte          // PEM, for quotes that carry no chain
	AllowZeroPadding bool            // accept zero bytes after the quote
	Roots            *pck.Roots      // nil: Intel's
	Now              time.Time       // of the forecast
	Collateral       *collateral.Set // of the standard evaluation
	Early            *collateral.Set // of the early one; nil: not known
}

// Report is a forecast.
type Report struct {
	TEE     string    `json:"tee"`
	Time    time.Time `json:"time"`
	FMSPC   string    `json:"fmspc"`
	Current Status    `json:"current"`
	// Next is the status under the early evaluation; nil: not known.
	Next *Status `json:"next"`
	// Later says whether Next is a later evaluation than Current.
	Later   bool     `json:"later"`
	Parts   []Part   `json:"parts"`
	Updates []Update `json:"updates"`
}

// Status is the outcome under one evaluation.
type Status struct {
	tcb.Verdict
	Evaluation int `json:"evaluation"`
}

// Part is a part of the collateral and the whole days it is still valid;
// negative: it expired that long ago.
type Part struct {
	collateral.Part
	Days int `json:"days"`
}

// Update is a component whose version is below that of the best level.
type Update struct {
	Evaluation int    `json:"evaluation"` // that asks for it
	Component  string `json:"component"`  // "tdx_module", "pce", "qe", or "sgx01" to "tdx16"
	What       string `json:"what"`       // as Intel names it, or what is known of it
	Have       int    `json:"have"`
	Need       int    `json:"need"`
	Remedy     string `json:"remedy"`
}

// Make verifies the quote under both evaluations. Its error has the faults of
// the verification under the standard one: with cryptography or binding
// broken there is no report. A status that is not UpToDate is no error, and
// neither is expired collateral: both are in the report.
func Make(in *Input) (*Report, error) {
	q, err := quote.Parse(in.Quote, quote.Options{AllowZeroPadding: in.AllowZeroPadding})
	if err != nil {
		return nil, fault.New(fault.ExitParse, "dcap.quote.parse", "check that the file holds one whole raw quote", "reading quote: %w", err)
	}
	now, svn, err := in.verify(q, in.Collateral)
	if err != nil {
		return nil, err
	}
	rep := &Report{TEE: now.TEE, Time: in.Now, FMSPC: now.Platform.FMSPC, Current: statusOf(now), Parts: []Part{}, Updates: []Update{}}
	for _, p := range in.Collateral.Parts() {
		rep.Parts = append(rep.Parts, Part{Part: p, Days: days(p.NextUpdate.Sub(in.Now))})
	}
	if rep.Updates, err = in.updates(q, in.Collateral, svn); err != nil {
		return nil, err
	}
	if in.Early == nil {
		return rep, nil
	}
	next, _, err := in.verify(q, in.Early)
	if err != nil {
		return nil, fmt.Errorf("judging by the early collateral: %w", err)
	}
	s := statusOf(next)
	rep.Next, rep.Later = &s, s.Evaluation > rep.Current.Evaluation
	if rep.Later {
		more, err := in.updates(q, in.Early, svn)
		if err != nil {
			return nil, err
		}
		rep.Updates = append(rep.Updates, more...)
	}
	return rep, nil
}

// statusOf takes the status out of a verification's result.
func statusOf(r *dcap.Result) Status {
	return Status{Verdict: r.TCB.Verdict, Evaluation: min(r.TCB.Evaluation, r.TCB.QEEvaluation)}
}

// verify verifies the quote under one evaluation. It returns TEE_TCB_SVN of
// the module that runs now; zero for SGX.
func (in *Input) verify(q *quote.Quote, set *collateral.Set) (*dcap.Result, tcb.Components, error) {
	o := &dcap.Options{Roots: in.Roots, Now: in.Now, Collateral: set, PCKChain: in.PCKChain, AllowZeroPadding: in.AllowZeroPadding}
	var res *dcap.Result
	var svn tcb.Components
	var err error
	if q.TEE == quote.TEETDX {
		var r *tdx.Result
		if r, err = tdx.Verify(in.Quote, o); r != nil {
			res, svn = &r.Result, r.TD.TEETCBSVN
			if r.TD.BodyType >= quote.BodyTD15 {
				svn = r.TD.TEETCBSVN2
			}
		}
	} else {
		var r *sgx.Result
		if r, err = sgx.Verify(in.Quote, o); r != nil {
			res = &r.Result
		}
	}
	// The status is known wherever cryptography and bindings hold; Revoked,
	// NotSupported and expired parts are errors of a verification only.
	if res == nil || res.TCB.Status == "" {
		return nil, svn, err
	}
	return res, svn, nil
}

// days rounds down, so that a part with an hour left has 0 days.
func days(d time.Duration) int { return int(math.Floor(d.Hours() / 24)) }

// names are the parts of a TCB info that its evaluation does not need: what
// Intel calls each component. The bytes were authenticated with the set.
type names struct {
	Levels []struct {
		TCB struct {
			SGX []componentName `json:"sgxtcbcomponents"`
			TDX []componentName `json:"tdxtcbcomponents"`
		} `json:"tcb"`
	} `json:"tcbLevels"`
}

type componentName struct {
	Category string `json:"category"`
	Type     string `json:"type"`
}

// describe says what component i of a list is, as far as Intel does.
func describe(list []componentName, i int) string {
	if i >= len(list) || list[i].Category == "" && list[i].Type == "" {
		return "component that Intel does not name"
	}
	if list[i].Type == "" {
		return list[i].Category
	}
	return list[i].Category + ", " + list[i].Type
}

// updates lists the components that are below the best level of a set.
func (in *Input) updates(q *quote.Quote, set *collateral.Set, svn tcb.Components) ([]Update, error) {
	info, qe := set.TCBInfo(), set.QEIdentity()
	chainPEM := q.Cert.PEM
	var chain *pck.Chain
	var err error
	switch q.Cert.Type {
	case quote.CertPCKLeaf:
		chain, err = pck.VerifyLeaf(chainPEM, set.Issuer())
	case quote.CertPCKChain:
		chain, err = pck.Verify(chainPEM, set.Roots(), set.Issuer())
	default:
		chain, err = pck.Verify(in.PCKChain, set.Roots(), set.Issuer())
	}
	if err != nil {
		return nil, fmt.Errorf("verifying PCK chain: %w", err)
	}
	var n names
	if err := json.Unmarshal(set.Raw().TCBInfo, &n); err != nil {
		return nil, fmt.Errorf("reading the names of components: %w", err)
	}
	out := []Update{}
	add := func(component, what string, have, need int, remedy string) {
		if have < need {
			out = append(out, Update{Evaluation: info.Evaluation, Component: component, What: what, Have: have, Need: need, Remedy: remedy})
		}
	}
	if i := bestLevel(info.Levels); i >= 0 {
		level, x := &info.Levels[i], &chain.Extensions
		var sgxNames, tdxNames []componentName
		if i < len(n.Levels) {
			sgxNames, tdxNames = n.Levels[i].TCB.SGX, n.Levels[i].TCB.TDX
		}
		for c := range level.SGX {
			add(fmt.Sprintf("sgx%02d", c+1), describe(sgxNames, c), int(x.Components[c]), int(level.SGX[c]), remedyFor(sgxNames, c))
		}
		add("pce", "provisioning certification enclave", int(x.PCESVN), int(level.PCESVN), "update the SGX platform software, then reboot")
		if info.ID == "TDX" {
			from := 0
			if svn[1] > 0 {
				from = 2 // the module identity speaks of the first two
			}
			for c := from; c < len(level.TDX); c++ {
				add(fmt.Sprintf("tdx%02d", c+1), describe(tdxNames, c), int(svn[c]), int(level.TDX[c]), remedyFor(tdxNames, c))
			}
		}
	}
	if info.ID == "TDX" && svn[1] > 0 {
		if m := info.FindModule(svn[1]); m != nil {
			add("tdx_module", "TDX module "+m.ID, int(svn[0]), bestSVN(m.Levels), "update the TDX module, then relaunch the TD")
		}
	}
	var report quote.EnclaveReport
	report.Decode(q.QEReport)
	add("qe", "quoting enclave", int(report.ISVSVN), bestSVN(qe.Levels), "update the quoting enclave: the DCAP packages of the host")
	return out, nil
}

// remedyFor says where a component's update comes from.
func remedyFor(list []componentName, i int) string {
	if i < len(list) && list[i].Category == "OS/VMM" {
		return "update the host's operating system with its microcode and modules, then reboot"
	}
	return "update the platform's BIOS, then reboot"
}

// bestLevel returns the index of the first level with status UpToDate, else
// of the first level: Intel lists the best first.
func bestLevel(levels []tcb.Level) int {
	for i := range levels {
		if levels[i].Status == tcb.UpToDate {
			return i
		}
	}
	if len(levels) > 0 {
		return 0
	}
	return -1
}

func bestSVN(levels []tcb.SVNLevel) int {
	for _, l := range levels {
		if l.Status == tcb.UpToDate {
			return int(l.ISVSVN)
		}
	}
	if len(levels) > 0 {
		return int(levels[0].ISVSVN)
	}
	return 0
}
