"""Video data: dataset folders, pictures, flips, flow, and which frames form a pair."""
