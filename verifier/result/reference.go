package result

import (
	"maps"
	"strings"
	"sync"
)

// Reference is the document with its edition, and the section of it, that a
// check follows. Of the project's own documents it is the path in the repository
// and the heading.
type Reference struct {
	Document string `json:"document"`
	Section  string `json:"section"`
}

// document is what checks follow, in the edition that sections are those of.
// The project's own pages are in the repository, and so of its version.
type document struct{ title, edition string }

// String names document and edition, as in "RFC 5280, May 2008".
func (d document) String() string {
	if d.edition == "" {
		return d.title
	}
	return d.title + ", " + d.edition
}

// Documents that checks follow. A service's or a library's edition is the
// version of its interface or of its release.
var (
	docQVL     = document{"Intel SGX and TDX DCAP Quote Verification Library", "release 1.27"}
	docPCS     = document{"Intel SGX and Intel TDX services, API Documentation", "API version 4"}
	docPCK     = document{"Intel SGX PCK Certificate and Certificate Revocation List Profile Specification", "revision 1.5"}
	docTDX     = document{"Intel TDX Module ABI Reference Specification", "348551, TDX Module 1.5"}
	docSNP     = document{"AMD SEV Secure Nested Paging Firmware ABI Specification", "56860, revision 1.58"}
	docKDS     = document{"AMD VCEK Certificate and KDS Interface Specification", "57230, revision 1.00, January 2025"}
	docTPM2    = document{"TCG TPM 2.0 Library, Part 2: Structures", "revision 1.59, November 2019"}
	docTPM3    = document{"TCG TPM 2.0 Library, Part 3: Commands", "revision 1.59, November 2019"}
	docUEFI    = document{"UEFI Specification", "version 2.10"}
	docPFP     = document{"TCG PC Client Platform Firmware Profile", "version 1.06"}
	docDICE    = document{"TCG DICE Attestation Architecture", "version 1.0"}
	docRIM     = document{"TCG Reference Integrity Manifest Information Model", "version 1.01"}
	docXML     = document{"W3C XML Signature Syntax and Processing", "version 1.1, April 2013"}
	docSPDM    = document{"DMTF DSP0274, Security Protocol and Data Model", "version 1.1"}
	docX509    = document{"RFC 5280", "May 2008"}
	docOCSP    = document{"RFC 6960", "June 2013"}
	docNonce   = document{"RFC 8954", "November 2020"}
	docTLS     = document{"RFC 8446", "August 2018"}
	docJCS     = document{"RFC 8785", "June 2020"}
	docTree    = document{"RFC 9162", "December 2021"}
	docEAT     = document{"RFC 9711", "April 2025"}
	docCEL     = document{"Common Expression Language specification", "version 0.25"}
	docVerdict = document{title: "docs/verifier-api.md"}
	docPolicy  = document{title: "docs/policy.md"}
	docQuotes  = document{title: "docs/verify-quotes.md"}
	docSNPPage = document{title: "docs/verify-snp.md"}
	docTPMPage = document{title: "docs/verify-tpm.md"}
	docGPU     = document{title: "docs/verify-gpu.md"}
	docGPURIM  = document{title: "docs/gpu-rims.md"}
	docMeasure = document{title: "docs/measurements.md"}
)

// cited is a section of a document.
type cited struct {
	doc     document
	section string
}

func (c cited) reference() Reference { return Reference{c.doc.String(), c.section} }

// references says of every check what it follows. An ID that ends in a dot
// stands for all that begin with it; the longest counts. reference_test.go
// holds the table against the IDs in the sources, both ways.
var references = map[string]cited{
	// Form, binding and freshness of evidence.
	"evidence.parse":             {docJCS, "3.1, Creation of Input Data"},
	"evidence.profile":           {docVerdict, "Requests"},
	"evidence.config":            {docVerdict, "Checks"},
	"evidence.type.unsupported":  {docVerdict, "Checks"},
	"evidence.cpu.unchecked":     {docVerdict, "Checks"},
	"evidence.cpu.refused":       {docVerdict, "Checks"},
	"evidence.cpu.type":          {docVerdict, "Checks"},
	"foreign.unbound":            {docVerdict, "Recorded evidence"},
	"nonce.inputs":               {docVerdict, "Requests"},
	"nonce.challenge":            {docEAT, "4.1, eat_nonce"},
	"claims.nonce":               {docEAT, "4.1, eat_nonce"},
	"claims.encoding":            {docJCS, "3.2, Generation of Canonical JSON Data"},
	"claims.config_sha256":       {docVerdict, "Checks"},
	"claims.model":               {docVerdict, "Checks"},
	"claims.gpu_evidence_sha256": {docGPU, "In a worker's evidence"},
	"claims.stages_sha256":       {docVerdict, "Checks"},
	"claims.keys":                {docVerdict, "Checks"},
	"tls.spki":                   {docTLS, "4.4.3, Certificate Verify"},

	// Policy.
	"policy.missing":     {docPolicy, "Policies"},
	"policy.trust_class": {docPolicy, "Sections"},
	"policy.test_roots":  {docPolicy, "Test roots"},
	"policy.rule.":       {docCEL, "Language Definition"},
	"policy.tpm":         {docTPMPage, "TPM quotes"},
	"policy.tdx":         {docQuotes, "Policy"},
	"policy.tdx.":        {docQuotes, "Policy"},
	"policy.sgx.":        {docQuotes, "Policy"},
	"policy.snp.":        {docSNPPage, "Policy"},
	"gpu.policy.":        {docGPU, "Policy"},

	// Manifest, registry, image, config, model.
	"manifest.trusted":           {docVerdict, "Manifest"},
	"manifest.logged":            {docTree, "2.1.3.2, Verifying an Inclusion Proof"},
	"manifest.revoked":           {docVerdict, "Policy"},
	"manifest.debug":             {docVerdict, "Manifest"},
	"manifest.sunset":            {docVerdict, "Manifest"},
	"manifest.grace":             {docVerdict, "Manifest"},
	"manifest.registry":          {docVerdict, "Policy"},
	"manifest.tcb_floor":         {docVerdict, "Manifest"},
	"manifest.":                  {docVerdict, "Manifest"}, // and the TEE without reference values
	"registry.state":             {docVerdict, "Policy"},
	"model.registry":             {docVerdict, "Policy"},
	"model.name":                 {docVerdict, "Manifest"},
	"model.verity_root":          {docVerdict, "Manifest"},
	"config.role":                {docVerdict, "Manifest"},
	"config.platform":            {docVerdict, "Manifest"},
	"config.init_block":          {docVerdict, "Manifest"},
	"config.sealer":              {docVerdict, "Manifest"},
	"config.gpus.mode":           {docVerdict, "Manifest"},
	"config.network_id":          {docVerdict, "Manifest"},
	"config.registry":            {docVerdict, "Manifest"},
	"config.engine.kind":         {docVerdict, "Manifest"},
	"config.engine.image_digest": {docVerdict, "Manifest"},
	"config.engine.args":         {docVerdict, "Manifest"},
	"image.registers":            {docPFP, "10.2, event log"},
	"image.kernel":               {docPFP, "3.3.4, PCR Usage"},
	"image.initrd":               {docMeasure, "Each register"},
	"image.cmdline":              {docMeasure, "Each register"},
	"image.root":                 {docMeasure, "Each register"},
	"image.launch_digest":        {docSNP, "SNP_LAUNCH_UPDATE"},
	"firmware.pcr0":              {docPFP, "3.3.4, PCR Usage"},
	"firmware.pcr7":              {docPFP, "3.3.4, PCR Usage"},
	"firmware.mrtd":              {docTDX, "MRTD"},
	"firmware.servicetd":         {docTDX, "SERVTD_BIND"},
	"pcr.":                       {docPFP, "3.3.4, PCR Usage"},
	"rtmr.":                      {docMeasure, "Each register"},

	// Intel: collateral, PCK chain, quote, TCB.
	"dcap.collateral.parse":         {docPCS, "Get TCB Info"},
	"dcap.collateral.signature":     {docQVL, "TCBInfoVerifier.cpp, EnclaveIdentityVerifier.cpp"},
	"dcap.collateral.current":       {docQVL, "QuoteVerification.cpp, expirationDate"},
	"dcap.collateral.expired":       {docQVL, "QuoteVerification.cpp, expirationDate"},
	"dcap.collateral.not_yet_valid": {docQVL, "QuoteVerification.cpp, expirationDate"},
	"dcap.collateral.missing":       {docPCS, "Get TCB Info"},
	"dcap.collateral.":              {docQuotes, "Collateral"}, // and the part that fails
	"dcap.collateral.root":          {docPCK, "trust hierarchy"},
	"dcap.collateral.tee":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.15"},
	"dcap.collateral.fmspc":         {docQVL, "QuoteVerifier.cpp, 4.1.2.5.10"},
	"dcap.collateral.pceid":         {docQVL, "QuoteVerifier.cpp, 4.1.2.5.11"},
	"dcap.collateral.pck_crl":       {docPCK, "CRL profile"},
	"dcap.collateral.fetch.":        {docPCS, "Response codes"},
	"dcap.pck.missing":              {docQVL, "QuoteConstants.h, PCK_ID_PCK_CERT_CHAIN"},
	"dcap.pck.chain":                {docX509, "6.1, Basic Path Validation"},
	"dcap.pck.root":                 {docPCK, "trust hierarchy"},
	"dcap.pck.expired":              {docX509, "6.1, Basic Path Validation"},
	"dcap.pck.revoked":              {docX509, "6.3, CRL Validation"},
	"tdx.quote.parse":               {docQVL, "QuoteStructures.h, Ecdsa256BitQuoteV4AuthData"},
	"tdx.quote.signature":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.17"},
	"tdx.quote.attestation_key":     {docQVL, "QuoteStructures.h, Ecdsa256BitPubkey"},
	"tdx.quote.vendor":              {docQVL, "QuoteConstants.h, INTEL_QE_VENDOR_ID"},
	"tdx.qe.signature":              {docQVL, "QuoteVerifier.cpp, 4.1.2.5.13"},
	"tdx.qe.binding":                {docQVL, "QuoteVerifier.cpp, 4.1.2.5.14"},
	"tdx.qe.identity":               {docQVL, "EnclaveReportVerifier.cpp, 4.1.2.9.5 to 4.1.2.9.8"},
	"tdx.tcb.":                      {docQVL, "EvaluateTcb.cpp, 4.1.2.5.2"}, // and the status
	"tdx.module.mrsigner":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.12.1"},
	"tdx.module.attributes":         {docQVL, "QuoteVerifier.cpp, 4.1.2.5.12.2"},
	"tdx.module.identity":           {docPCS, "TCB info, tdxModuleIdentities"},
	"tdx.debug":                     {docTDX, "ATTRIBUTES"},
	"tdx.mrconfigid":                {docTDX, "TDINFO_STRUCT, MRCONFIGID"},
	"tdx.report_data":               {docTDX, "REPORTMACSTRUCT, REPORTDATA"},
	"tdx.event_log.format":          {docPFP, "10.2, event log"},
	"tdx.event_log.structure":       {docTPMPage, "The form of a measured boot"},
	"tdx.event_log.replay":          {docUEFI, "38.4, measurement registers of a TD"},
	"tdx.event_log.runtime":         {docTDX, "TDG.MR.RTMR.EXTEND"},
	"tdx.runtime_events":            {docMeasure, "Each register"},
	"sgx.quote.parse":               {docQVL, "QuoteStructures.h, Ecdsa256BitQuoteV3AuthData"},
	"sgx.quote.signature":           {docQVL, "QuoteVerifier.cpp, 4.1.2.5.17"},
	"sgx.quote.attestation_key":     {docQVL, "QuoteStructures.h, Ecdsa256BitPubkey"},
	"sgx.quote.vendor":              {docQVL, "QuoteConstants.h, INTEL_QE_VENDOR_ID"},
	"sgx.qe.signature":              {docQVL, "QuoteVerifier.cpp, 4.1.2.5.13"},
	"sgx.qe.binding":                {docQVL, "QuoteVerifier.cpp, 4.1.2.5.14"},
	"sgx.qe.identity":               {docQVL, "EnclaveReportVerifier.cpp, 4.1.2.9.5 to 4.1.2.9.8"},
	"sgx.tcb.":                      {docQVL, "EvaluateTcb.cpp, 4.1.2.5.1"}, // and the status
	"sgx.report_data":               {docQVL, "QuoteStructures.h, EnclaveReport"},

	// AMD.
	"snp.report.parse":       {docSNP, "table 23, ATTESTATION_REPORT"},
	"snp.report.host":        {docSNP, "SNP_HV_REPORT_REQ"},
	"snp.report_data":        {docSNP, "table 23, REPORT_DATA"},
	"snp.signature":          {docSNP, "table 23, SIGNATURE"},
	"snp.host_data":          {docSNP, "SNP_LAUNCH_FINISH, HOST_DATA"},
	"snp.event_log":          {docSNPPage, "What is verified"},
	"snp.chain":              {docKDS, "chapter 2, certificates"},
	"snp.cert.missing":       {docKDS, "chapter 4, KDS interface"},
	"snp.cert.parse":         {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.signer":        {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.product":       {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.tcb":           {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.chip_id":       {docKDS, "chapter 3, VCEK and VLEK certificates"},
	"snp.cert.expired":       {docX509, "6.1, Basic Path Validation"},
	"snp.cert.revoked":       {docX509, "6.3, CRL Validation"},
	"snp.crl.missing":        {docSNPPage, "Policy"},
	"snp.crl.parse":          {docX509, "5, CRL and CRL Extensions Profile"},
	"snp.crl.signature":      {docX509, "6.3, CRL Validation"},
	"snp.crl.current":        {docX509, "6.3, CRL Validation"},
	"snp.kds.":               {docKDS, "chapter 4, KDS interface"},
	"snp.collateral.source":  {docSNPPage, "What is verified"},
	"snp.tcb.reported":       {docSNP, "TCB_VERSION"},
	"snp.tcb.committed":      {docSNP, "TCB_VERSION"},
	"snp.tcb.launch":         {docSNP, "TCB_VERSION"},
	"snp.firmware.committed": {docSNP, "SNP_COMMIT"},
	"snp.id_block.":          {docSNP, "SNP_LAUNCH_FINISH, ID block"},

	// Virtual and real TPMs, and Azure's VMs.
	"tpm.ak.chain":            {docX509, "6.1, Basic Path Validation"},
	"tpm.ak.validity":         {docX509, "6.1, Basic Path Validation"},
	"tpm.ak.attributes":       {docTPM2, "TPMA_OBJECT"},
	"tpm.ak.enrolment":        {docTPM3, "TPM2_ActivateCredential"},
	"tpm.quote.format":        {docTPM2, "TPMS_ATTEST"},
	"tpm.quote.type":          {docTPM2, "TPMS_ATTEST"},
	"tpm.quote.signature":     {docTPM2, "TPMT_SIGNATURE"},
	"tpm.quote.extra_data":    {docTPM3, "TPM2_Quote"},
	"tpm.quote.pcr_selection": {docTPM2, "TPMS_QUOTE_INFO"},
	"tpm.quote.pcr_digest":    {docTPM2, "TPMS_QUOTE_INFO"},
	"tpm.event_log.format":    {docPFP, "10.2, event log"},
	"tpm.event_log.structure": {docTPMPage, "The form of a measured boot"},
	"tpm.event_log.replay":    {docPFP, "10.2, event log"},
	"tpm.runtime_events":      {docMeasure, "Each register"},
	"azure.":                  {docTPMPage, "Azure confidential VMs"},
	"azure.tdx.report":        {docTDX, "TDREPORT_STRUCT"},

	// NVIDIA.
	"gpu.":                  {docGPU, "Checks"},
	"gpu.collateral.parse":  {docGPU, "In a worker's evidence"},
	"gpu.collateral.source": {docGPU, "In a worker's evidence"},
	"gpu.chain":             {docX509, "6.1, Basic Path Validation"},
	"gpu.signature":         {docSPDM, "10.11, GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.nonce":             {docSPDM, "10.11, GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.parse":             {docSPDM, "10.11, GET_MEASUREMENTS and MEASUREMENTS"},
	"gpu.fwid":              {docDICE, "6.1.1, DiceTcbInfo"},
	"gpu.ocsp":              {docOCSP, "3.2, Signed Response Acceptance Requirements"},
	"gpu.ocsp.":             {docOCSP, "4.2, Response Syntax"},
	"gpu.rim.ocsp":          {docOCSP, "3.2, Signed Response Acceptance Requirements"},
	"gpu.rim.driver":        {docGPURIM, "One document"},
	"gpu.rim.vbios":         {docGPURIM, "One document"},
	"gpu.rim.parse":         {docRIM, "RIM format"},
	"gpu.rim.digest":        {docXML, "3.2, Core Validation"},
	"gpu.rim.signature":     {docXML, "3.2, Core Validation"},
	"gpu.rim.chain":         {docX509, "6.1, Basic Path Validation"},
	"gpu.rim.validity":      {docX509, "6.1, Basic Path Validation"},
	"gpu.rim.not_found":     {docGPURIM, "What goes wrong"},
	"rim.parse":             {docRIM, "RIM format"},
	"rim.digest":            {docXML, "3.2, Core Validation"},
	"rim.signature":         {docXML, "3.2, Core Validation"},
	"rim.chain":             {docX509, "6.1, Basic Path Validation"},
	"rim.validity":          {docX509, "6.1, Basic Path Validation"},
	"ocsp.":                 {docOCSP, "4.2, Response Syntax"},
	"ocsp.nonce":            {docNonce, "2, OCSP Extensions"},
}

// written is references as checks have them: the texts are made once.
var written = sync.OnceValue(func() map[string]Reference {
	out := make(map[string]Reference, len(references))
	for id, c := range references {
		out[id] = c.reference()
	}
	return out
})

// References returns the whole table, for readers of verdicts that do not have
// it. An ID that ends in a dot stands for all that begin with it; the longest
// counts.
func References() map[string]Reference { return maps.Clone(written()) }

// ReferenceOf returns what a check follows; the zero value for an ID that no
// check has.
func ReferenceOf(id string) Reference {
	table := written()
	if r, ok := table[id]; ok {
		return r
	}
	for n := strings.LastIndexByte(id, '.'); n > 0; n = strings.LastIndexByte(id[:n], '.') {
		if r, ok := table[id[:n+1]]; ok {
			return r
		}
	}
	return Reference{}
}

// Cite writes into each check what it follows. It is called where checks leave
// an appraisal, and where they are read from a verdict: whoever makes one need
// not know, and whoever signs one need not say.
func Cite(checks []Check) {
	for i := range checks {
		r := ReferenceOf(checks[i].ID)
		checks[i].Document, checks[i].Section = r.Document, r.Section
	}
}
