// The path puts this module where kind's own parser, an internal package, may be imported from.
module sigs.k8s.io/kind/pkg/kindcheck

go 1.25.0

require sigs.k8s.io/kind v0.33.0

require (
	github.com/pkg/errors v0.9.1 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
)
