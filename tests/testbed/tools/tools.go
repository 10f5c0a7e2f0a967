// Package tools pins what the tests take from Go modules without building it themselves.
package tools

// The CustomResourceDefinitions of VolumeSnapshots lie in this module's config/crd.
import _ "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
