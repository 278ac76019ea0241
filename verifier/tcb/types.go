package tcb

import "time"

// Components are the 16 security version numbers of a TCB.
type Components [16]uint8

// Info is a TCB info document, version 3, as Intel signs it for one FMSPC.
type Info struct {
	ID         string // "SGX" or "TDX"
	Version    int    // 3
	IssueDate  time.Time
	NextUpdate time.Time
	FMSPC      [6]byte
	PCEID      [2]byte // as written in the document: most significant byte first
	TCBType    int     // 0: the component layout known here
	Evaluation int     // tcbEvaluationDataNumber
	Module     *Module // "tdxModule": TDX only
	Modules    []Module
	Levels     []Level // best first, as signed
}

// Module is what Intel publishes of a TDX module: "tdxModule" for all modules
// of version 1.0, or an element of "tdxModuleIdentities", which has an ID
// "TDX_<version, two hex digits>" and levels.
type Module struct {
	ID             string
	MRSigner       [48]byte
	Attributes     [8]byte
	AttributesMask [8]byte
	Levels         []SVNLevel
}

// Level is one TCB level of a platform.
type Level struct {
	SGX        Components
	TDX        Components
	PCESVN     uint16
	HasTDX     bool
	Date       time.Time
	Status     Status
	Advisories []string
}

// SVNLevel is one TCB level of an enclave or a TDX module.
type SVNLevel struct {
	ISVSVN     uint16
	Date       time.Time
	Status     Status
	Advisories []string
}

// QEIdentity is an enclave identity document, version 2: "QE" for SGX,
// "TD_QE" for TDX.
type QEIdentity struct {
	ID             string
	Version        int
	IssueDate      time.Time
	NextUpdate     time.Time
	Evaluation     int
	MiscSelect     [4]byte // byte order of the document, which is that of the report
	MiscSelectMask [4]byte
	Attributes     [16]byte
	AttributesMask [16]byte
	MRSigner       [32]byte
	ISVProdID      uint16
	Levels         []SVNLevel // best first, as signed
}

// Platform is what one TCB evaluation needs to know of a platform.
type Platform struct {
	CPUSVN    Components // of the PCK certificate, decompressed
	PCESVN    uint16     // of the PCK certificate
	TEETCBSVN Components // of the TD report; TDX only
}

// Verdict is the outcome of one evaluation. Platform, Module and QE are empty
// where the part is absent or no level matches.
type Verdict struct {
	Status     Status    `json:"status"`
	Platform   Status    `json:"platform,omitempty"`
	Module     Status    `json:"module,omitempty"`
	QE         Status    `json:"qe,omitempty"`
	Date       time.Time `json:"date,omitzero"`        // minimum over the matched levels
	Advisories []string  `json:"advisories,omitempty"` // platform, then QE, then module; without repeats
}
