package main

// Ledger says where to read the registry from.
type Ledger struct {
	Config string `json:"config"` // the network's global.config.json
}
